// The renderer's scene (sie.data.scene.Scene) in three.js: lengths in diagonals of the object's bounding box, z up.

const SUNS = 16; // parallel lights in place of the sun's disc

function spherical(r, theta, phi) {
  return [r * Math.sin(theta) * Math.cos(phi), r * Math.sin(theta) * Math.sin(phi), r * Math.cos(theta)];
}

// HSV with values in 0..1, as linear light.
function hsv(hue, saturation, value) {
  const channel = n => {
    const k = (n + 6 * (hue - Math.floor(hue))) % 6;
    return value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1));
  };
  return [channel(5), channel(3), channel(1)];
}

export class Stage {
  static async on(canvas, scene) {
    return new Stage(await import("./vendor/three.js"), canvas, scene);
  }

  constructor(three, canvas, scene) {
    this.three = three;
    this.scene = scene;
    this.renderer = new three.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: true });
    this.renderer.setSize(canvas.width, canvas.height, false);
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = three.PCFShadowMap;
    this.loader = new three.GLTFLoader();
    this.world = new three.Scene();
    this.object = new three.Group();
    this.world.add(this.object);
    this.#addCamera();
    this.#addFloor();
    this.#addLights();
  }

  #addCamera() {
    const { camera_radius, camera_theta, camera_phi, focal_length, sensor_width, frame, side } = this.scene;
    const field = (2 * Math.atan(sensor_width / focal_length / 2) * 180) / Math.PI;
    this.camera = new this.three.PerspectiveCamera(field, 1, 0.1, 200);
    this.camera.up.set(0, 0, 1);
    this.camera.position.set(...spherical(camera_radius, camera_theta, camera_phi));
    this.camera.lookAt(0, 0, 0);
    const margin = (frame - side) / 2;
    this.camera.setViewOffset(frame, frame, margin, margin, side, side); // the central square of the frame
  }

  #addFloor() {
    this.floor = new this.three.Mesh(
      new this.three.PlaneGeometry(200, 200),
      new this.three.MeshLambertMaterial(),
    );
    this.floor.position.z = this.scene.floor_z;
    this.floor.receiveShadow = true;
    this.world.add(this.floor);
  }

  #addLights() {
    const { three, scene } = this;
    for (let k = 0; k < SUNS; k++) {
      const theta = Math.asin(Math.sin(scene.sun_angle / 2) * Math.sqrt((k + 0.5) / SUNS));
      const sun = new three.DirectionalLight(0xffffff, scene.sun_strength / SUNS / Math.cos(theta));
      sun.position.set(...spherical(1, theta, k * Math.PI * (3 - Math.sqrt(5))));
      this.world.add(sun);
    }
    this.bounce = new three.HemisphereLight(0x000000, 0xffffff, scene.sun_strength); // from the floor
    this.bounce.position.set(0, 0, 1);
    const half = scene.spot_angle / 2;
    const beam = Math.acos(Math.cos(half) + scene.spot_blend * (1 - Math.cos(half)));
    this.spot = new three.SpotLight(0xffffff, scene.spot_power / (4 * Math.PI), 0, half, 1 - beam / half, 2);
    this.spot.castShadow = true;
    this.spot.shadow.mapSize.set(1024, 1024);
    this.spot.shadow.camera.near = 1;
    this.spot.shadow.camera.far = 9;
    this.spot.shadow.bias = -0.002;
    this.world.add(this.bounce, this.spot);
  }

  // Put an object on the stage; `look`: floor hue, light theta, light phi, light hue.
  async show(name, look) {
    const [floorHue, theta, phi, lightHue] = look;
    const { scene, three } = this;
    this.wanted = name;
    const model = (await this.loader.loadAsync(`objects/${name}.glb`)).scene;
    if (this.wanted !== name) return; // another one was chosen meanwhile
    model.traverse(part => {
      if (!part.isMesh) return;
      part.material = new three.MeshLambertMaterial({
        color: part.material.color,
        side: three.DoubleSide,
        flatShading: true,
      });
      part.castShadow = true;
      part.receiveShadow = true;
    });
    model.rotation.x = Math.PI / 2; // a GLB has y up
    this.shown = name;
    this.object.clear();
    this.object.add(model);
    const floor = new three.Color(...hsv(floorHue, scene.floor_saturation, scene.floor_value));
    this.floor.material.color = floor;
    this.bounce.groundColor = floor;
    this.spot.color = new three.Color(...hsv(lightHue, scene.spot_saturation, scene.spot_value));
    this.spot.position.set(...spherical(scene.spot_distance, theta, phi));
    this.draw();
  }

  turn(quaternion) {
    this.object.quaternion.set(...quaternion);
    this.drawSoon();
  }

  drawSoon() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.draw();
    });
  }

  draw() {
    this.renderer.render(this.world, this.camera);
    const turn = this.object.quaternion.toArray().map(x => x.toFixed(3));
    Object.assign(this.renderer.domElement.dataset, { object: this.shown ?? "", turn }); // what is on the canvas now
  }
}
