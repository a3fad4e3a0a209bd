"""Blender as reference renderer: its scene is ours, and so are its pictures, where Blender is there."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from sie.data.blender import BlenderRenderer, _front_only, blender_values
from sie.data.scene import Renderer, Scene, project, spherical
from sie.method.rotations import sample_latents


def boxes():
    "Three boxes of different colours, no two sides alike."
    parts = []
    for at, size, colour in (
        ((0, 0, 0), (0.5, 0.2, 0.1), (200, 60, 40)),
        ((0.2, 0, 0.12), (0.1, 0.2, 0.15), (40, 160, 70)),
        ((-0.2, 0.12, -0.1), (0.08, 0.08, 0.2), (230, 220, 90)),
    ):
        parts.append(trimesh.creation.box(size, trimesh.transformations.translation_matrix(at)))
        parts[-1].visual.face_colors = [*colour, 255]
    return trimesh.util.concatenate(parts)


def psnr(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean((1, 2, 3)))


def test_values_without_blender():
    scene, latents, rng = (
        Scene(focal_length=70, spot_power=123.0, sun_strength=0.7),
        sample_latents(20, np.random.default_rng(0)),
        np.random.default_rng(1),
    )
    for row in latents:
        shift, points = rng.uniform(-0.3, 0.3, 3), rng.uniform(-0.5, 0.5, (30, 3))
        values = blender_values(scene, row, shift)
        camera, spot, placed = (
            values["camera"],
            values["spot"],
            Rotation.from_euler("xyz", values["object"]["rotation_euler"]).apply(points) + values["object"]["location"],
        )
        seen = np.linalg.solve(camera["matrix_world"], np.c_[placed, np.ones(30)].T)[:3]
        across, up = camera["lens"] / camera["sensor_width"] * seen[:2] / -seen[2]
        np.testing.assert_allclose(
            128 * np.c_[0.5 + across, 0.5 - up],
            project(scene, Rotation.from_euler("xyz", row[:3]).apply(points + shift), 128),
            rtol=1e-5,
        )  # moved, then turned
        theta, phi = row[4:6].astype(float)
        np.testing.assert_allclose(
            spot["matrix_world"][:3, 3],
            4 * np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)]),
            atol=1e-9,
        )
        np.testing.assert_allclose(
            spot["matrix_world"] @ [0, 0, -4, 1], [0, 0, 0, 1], atol=1e-9
        )  # looks along its -z, at the origin
        assert (
            (spot["energy"], values["sun"]["energy"], spot["shadow_soft_size"]) == (123.0, 0.7, 0)
            and max(spot["color"]) == pytest.approx(0.8)
            and max(values["floor"]["color"]) == pytest.approx(0.6)
        )


def test_one_sided_faces_are_shown_from_their_front():
    "Of a box, which is convex, those faces are hidden whose plane has the camera on its inner side."
    box, scene, rng = boxes().triangles[:12], Scene(), np.random.default_rng(2)
    for row in sample_latents(20, rng):
        shift = rng.uniform(-0.3, 0.3, 3)
        shown = _front_only(scene, box, np.arange(6), row, shift)
        placed = Rotation.from_euler("xyz", row[:3]).apply(box.reshape(-1, 3) + shift).reshape(-1, 3, 3)
        camera = spherical(scene.camera_radius, scene.camera_theta, scene.camera_phi)
        volumes = np.linalg.det(placed - camera)  # of the tetrahedra that faces make with the camera
        hidden = (np.ptp(shown, axis=1) == 0).all(1)
        assert (
            (hidden[:6] == (volumes[:6] > 0)).all() and not hidden[6:].any() and (shown[~hidden] == box[~hidden]).all()
        )


def test_without_blender_the_error_says_what_to_install():
    code = "import sys; sys.modules['bpy'] = None\nfrom sie.data.blender import BlenderRenderer\nBlenderRenderer()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode and 'ImportError: Blender is not installed: `pip install -e ".[blender]"`' in ended.stderr


def test_pictures_agree():
    if find_spec("bpy") is None:
        pytest.skip("Blender's module bpy is not installed")
    mesh, rng = boxes(), np.random.default_rng(3)
    latents, shifts = sample_latents(3, rng), rng.uniform(-0.25, 0.25, (3, 3))
    moved = np.c_[latents, shifts]
    for given in (latents, moved):
        ours, theirs = (renderer(64, 36).render(mesh, given, seed=2) for renderer in (Renderer, BlenderRenderer))
        assert psnr(ours, theirs).min() > 33, psnr(ours, theirs)
    assert (
        psnr(Renderer(64, 36).render(mesh, latents), theirs).max() < 30
    )  # those of the object that was not moved do not
    np.testing.assert_array_equal(theirs[1:], BlenderRenderer(64, 36, threads=2).render(mesh, moved[1:], 2, 1))
    with pytest.raises(ValueError, match="scene.cycles.bounces cannot be 1"):
        BlenderRenderer(cycles=dict(bounces=1)).render(mesh, latents)
