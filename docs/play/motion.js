// How W(g)z moves while an object turns about an axis: predictions and embeddings of two trained models.
import { Chart, Plane, add, number } from "./chart.js";
import { DEGREE, about, matrix } from "./rotations.js";

const $ = id => document.getElementById(id);
const AXES = ["x", "y", "z"];
const KNOWN = 180; // degrees; 3DIEBench's angles reach from -90 to 90, so no pair of views is farther apart about one axis

const dot = (a, b) => a.reduce((sum, x, k) => sum + x * b[k], 0);
const scaled = (a, factor) => a.map(x => factor * x);
const plus = (a, b) => a.map((x, k) => x + b[k]);
export const cosine = (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));

// The entries of g for a turn about an axis.
function entries(form, axis, degrees) {
  const q = about(AXES.map(name => Number(name === axis)), degrees * DEGREE);
  return form === "quaternion" ? q : matrix(q);
}

// W(g)z = sum of g_k (H_k z).
export function predict(products, g) {
  return g.map((x, k) => scaled(products[k], x)).reduce(plus);
}

// Two orthonormal vectors of the plane in which the predictions move.
function planeOf(form, axis, products) {
  const at = degrees => predict(products, entries(form, axis, degrees));
  const quarter = form === "quaternion" ? 180 : 90; // of the ellipse
  const centre = scaled(plus(at(0), at(2 * quarter)), 0.5);
  const a = plus(at(0), scaled(centre, -1));
  const b = plus(at(quarter), scaled(centre, -1));
  const first = scaled(a, 1 / Math.sqrt(dot(a, a)));
  const rest = plus(b, scaled(first, -dot(b, first)));
  return [first, scaled(rest, 1 / Math.sqrt(dot(rest, rest)))];
}

const range = (from, to, step) => Array.from({ length: Math.round((to - from) / step) + 1 }, (_, k) => from + k * step);

class Panel {
  constructor(data, method) {
    this.data = data;
    this.method = method;
    this.form = data.methods[method];
    $(`plane-${method}`).closest("section").hidden = false;
  }

  show(object, axis) {
    this.axis = axis;
    Object.assign(this, this.data.vectors[this.method][`${object} ${axis}`]);
    const turned = this.data.turned;
    const basis = planeOf(this.form, axis, this.products);
    const length = Math.sqrt(dot(this.embeddings[0], this.embeddings[0]));
    this.project = vector => basis.map(b => dot(vector, b) / length);
    const path = range(0, 360, 3).map(t => this.project(this.at(t)));
    const places = this.embeddings.map(this.project);
    const size = 1.08 * Math.max(...[...path, ...places].flat().map(Math.abs));
    const plane = new Plane($(`plane-${this.method}`), size);
    plane.curve(path.slice(0, KNOWN / 3 + 1), "prediction");
    plane.curve(path.slice(KNOWN / 3), "prediction unseen");
    places.forEach((p, k) => plane.dot(p, turned[k] > KNOWN ? "embedding unseen" : "embedding", 3));
    this.arm = add(plane.inside, "path", { class: "arm" });
    this.truth = plane.dot([0, 0], "embedding now", 7);
    this.point = plane.dot([0, 0], "prediction now", 6);
    this.plane = plane;
    this.#drawCosines(turned);
  }

  #drawCosines(turned) {
    this.chart = new Chart($(`cosine-${this.method}`), {
      height: 170,
      x: { range: [0, 360], ticks: [0, 90, 180, 270, 360], label: "turned by, degrees" },
      y: { range: [-1, 1], ticks: [-1, 0, 1], label: "cosine", text: t => number(t, 0) },
    });
    this.cosines = turned.map((t, k) => cosine(this.at(t), this.embeddings[k]));
    this.unturned = turned.map((_, k) => cosine(this.embeddings[0], this.embeddings[k]));
    this.chart.curve(turned, this.unturned, "unturned");
    this.chart.curve(turned, this.cosines, "prediction");
    this.marker = this.chart.marker();
  }

  at(degrees) {
    return predict(this.products, entries(this.form, this.axis, degrees));
  }

  turn(degrees, k) {
    const place = this.project(this.at(degrees));
    this.plane.move(this.point, place);
    this.plane.move(this.truth, this.project(this.embeddings[k]));
    const [x, y] = this.plane.at(place);
    this.arm.setAttribute("d", `M150 150L${x} ${y}`);
    this.chart.moveMarker(this.marker, degrees);
    const g = entries(this.form, this.axis, degrees).map(x => number(x + 0));
    const rows = this.form === "matrix" ? [g.slice(0, 3), g.slice(3, 6), g.slice(6)] : [g];
    $(`g-${this.method}`).textContent = rows.map(row => row.join("  ")).join("\n");
    this.#read(k);
  }

  // What the prediction at the angle of a picture is like, and which of the views of the training's range is nearest.
  #read(k) {
    const { turned } = this.data;
    const predicted = this.at(turned[k]);
    const known = this.embeddings.filter((_, i) => turned[i] <= KNOWN).map(e => cosine(predicted, e));
    const nearest = turned[known.indexOf(Math.max(...known))];
    const output = $(`reading-${this.method}`);
    Object.assign(output.dataset, { cosine: this.cosines[k], unturned: this.unturned[k], nearest });
    output.textContent =
      `At ${turned[k]}° the cosine of prediction and embedding is ${number(this.cosines[k])} ` +
      `(without turning z: ${number(this.unturned[k])}). ` +
      `Of the views from 0° to ${KNOWN}°, the one nearest to the prediction is that at ${nearest}°.`;
  }
}

function showPicture(element, data, row, column) {
  element.style.backgroundSize = `${100 * data.turned.length}% ${100 * data.rows.length}%`;
  const x = (100 * column) / (data.turned.length - 1);
  const y = (100 * row) / (data.rows.length - 1);
  element.style.backgroundPosition = `${x}% ${y}%`;
}

export async function startMotion() {
  const data = await (await fetch("motion.json")).json();
  const panels = Object.keys(data.methods).map(method => new Panel(data, method));
  const turn = () => {
    const degrees = Number($("turned").value);
    const k = Math.round(degrees / (data.turned[1] - data.turned[0]));
    const row = data.rows.indexOf(`${$("object").value} ${$("axis").value}`);
    $("turned").nextElementSibling.textContent = `${degrees}°`;
    showPicture($("picture-start"), data, row, 0);
    showPicture($("picture-turned"), data, row, k);
    $("picture-caption").textContent = `turned by ${data.turned[k]}°`;
    $("unseen").textContent = degrees > KNOWN ? "Beyond 180°: no pair of views in training is turned so far." : "";
    for (const panel of panels) panel.turn(degrees, k);
  };
  const show = () => {
    for (const panel of panels) panel.show($("object").value, $("axis").value);
    turn();
  };
  $("object").replaceChildren(...data.objects.map(name => new Option(name)));
  $("object").value = "car";
  $("axis").value = "z";
  for (const id of ["object", "axis"]) $(id).addEventListener("input", show);
  $("turned").addEventListener("input", turn);
  $("motion").hidden = false;
  show();
  $("motion").dataset.ready = "true";
}
