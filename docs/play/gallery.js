// The gallery in 3D: an object that can be turned, and the renderer's picture of it at the nearest rotation.
import { DEGREE, about, angleBetween, eulerAngles, multiply, quaternion } from "./rotations.js";
import { Stage } from "./stage.js";

const $ = id => document.getElementById(id);
const AXES = ["x", "y", "z"];
const RIGHT = [-1, 0, 0]; // of the camera, which looks from +y
const UP = [0, 0, 1];
const STEP = 5; // degrees for each press of an arrow key

const data = await (await fetch("objects/objects.json")).json();
let stage = null; // none until the viewer is in sight, or where the browser has no WebGL
let name = "airplane";
let rotation = [0, 0, 0, 1];
let shown = 0; // index of the picture

function rounded(degrees) {
  return `${Math.round(degrees) + 0}°`.replace("-", "−");
}

function nearest() {
  const angles = data.quaternions.map(q => angleBetween(q, rotation));
  return angles.indexOf(Math.min(...angles));
}

function showPicture() {
  shown = nearest();
  const rows = Math.ceil(data.angles.length / data.columns);
  const column = shown % data.columns;
  const row = Math.floor(shown / data.columns);
  const picture = $("picture");
  picture.style.backgroundImage = `url(objects/${name}.jpg)`;
  picture.style.backgroundSize = `${100 * data.columns}% ${100 * rows}%`;
  picture.style.backgroundPosition = `${(100 * column) / (data.columns - 1)}% ${(100 * row) / (rows - 1)}%`;
  picture.dataset.view = shown;
  const away = angleBetween(data.quaternions[shown], rotation);
  const angles = data.angles[shown].map((a, k) => `${AXES[k]} ${rounded(a)}`).join(", ");
  const distance = away < 0.5 ? "The same rotation as on the left." : `${rounded(away)} away from the rotation on the left.`;
  $("which").textContent = `By the renderer: picture ${shown + 1} of ${data.angles.length}, ${angles}. ${distance}`;
  picture.setAttribute("aria-label", `The renderer's picture of the ${data.objects[name].name} at ${angles}`);
  $("align").disabled = away < 0.5;
}

function showAngles() {
  const angles = eulerAngles(rotation).map(a => a / DEGREE);
  AXES.forEach((axis, k) => {
    const slider = $(axis);
    if (Math.abs(slider.value - angles[k]) > 0.5) slider.value = Math.round(angles[k]);
    slider.nextElementSibling.textContent = rounded(angles[k]);
  });
}

function showRange() {
  const outside = eulerAngles(rotation).some(a => Math.abs(a / DEGREE) > 90.5);
  $("range").textContent = outside ? "This rotation is outside 3DIEBench's range, for which there are pictures." : "";
}

function turnTo(quaternion, fromSliders = false) {
  const length = Math.hypot(...quaternion);
  rotation = quaternion.map(x => x / length);
  if (fromSliders) AXES.forEach(axis => ($(axis).nextElementSibling.textContent = rounded($(axis).value)));
  else showAngles();
  showRange();
  showPicture();
  stage?.turn(rotation);
}

function turnBy(degreesRight, degreesDown) {
  const right = about(UP, degreesRight * DEGREE);
  const down = about(RIGHT, degreesDown * DEGREE);
  turnTo(multiply(multiply(down, right), rotation));
}

async function choose(chosen) {
  name = chosen;
  $("object-name").textContent = data.objects[name].name;
  $("file").href = `objects/${name}.glb`;
  for (const link of document.querySelectorAll("[data-object]")) {
    if (link.dataset.object === name) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  turnTo(data.quaternions[0]);
  await stage?.show(name, data.objects[name].look);
}

function listen() {
  const read = () => turnTo(quaternion(AXES.map(axis => $(axis).value * DEGREE)), true);
  for (const axis of AXES) $(axis).addEventListener("input", read);
  $("align").addEventListener("click", () => turnTo(data.quaternions[shown]));
  const step = by => () => turnTo(data.quaternions[(shown + by + data.quaternions.length) % data.quaternions.length]);
  $("previous").addEventListener("click", step(-1));
  $("next").addEventListener("click", step(1));
  const canvas = $("canvas");
  const keys = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  canvas.addEventListener("keydown", event => {
    if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    turnBy(...keys[event.key]);
  });
  canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", event => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const scale = 180 / canvas.clientWidth;
    turnBy(event.movementX * scale, event.movementY * scale);
  });
  for (const link of document.querySelectorAll("[data-object]"))
    link.addEventListener("click", event => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      history.replaceState(null, "", `#${link.dataset.object}`);
      choose(link.dataset.object);
      $("object-name").focus({ preventScroll: true });
      $("viewer").scrollIntoView({ block: "start" });
    });
}

// three.js is half a megabyte: it is loaded when the viewer comes into sight.
function startStage() {
  new IntersectionObserver(async (entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    try {
      stage = await Stage.on($("canvas"), data.scene);
      stage.turn(rotation);
      await stage.show(name, data.objects[name].look);
      $("viewer").dataset.ready = "true";
    } catch (error) {
      console.error(error);
      const note = "This browser cannot draw in 3D (WebGL). The sliders still choose the picture.";
      $("canvas").closest("figure").querySelector("figcaption").textContent = note;
      $("canvas").hidden = true;
      $("viewer").dataset.ready = "failed";
    }
  }).observe($("viewer"));
}

$("viewer").hidden = false;
$("how").textContent = "Choose an object. A picture opened in a new tab is its 3D model (GLB).";
listen();
await choose(location.hash.slice(1) in data.objects ? location.hash.slice(1) : name);
startStage();
