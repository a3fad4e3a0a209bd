// The third figure: curves over training, and the plane of the predictions at each of their points.
import { Chart, Plane, add, number, ticks } from "./chart.js";
import { imitation } from "./imitate.js";
import { DEGREE } from "./rotations.js";

const $ = id => document.getElementById(id);
const KNOWN = 180; // degrees
const RANGES = [90, 90, 90].map(r => r * DEGREE); // of the training data
const PAUSE = 350; // milliseconds between two points while it plays
const CURVES = {
  loss: { title: "loss" },
  r2: { title: "rotation R², online probe" },
  explained: { title: "share of z′ that W(g)z explains" },
};

// A point of the ellipse: centre + cos(s) a + sin(s) b.
function onEllipse([centre, a, b], form, degrees) {
  const s = (form === "quaternion" ? degrees / 2 : degrees) * DEGREE;
  return centre.map((c, k) => c + Math.cos(s) * a[k] + Math.sin(s) * b[k]);
}

function drawPlane(data, method, k) {
  const form = data.methods[method];
  const { ellipse, embeddings } = data[method].planes[k];
  const plane = new Plane($(`trained-${method}`), 1.6);
  const path = Array.from({ length: 61 }, (_, i) => onEllipse(ellipse, form, 3 * i));
  plane.curve(path, "prediction");
  const seen = embeddings.filter((_, i) => data.turned[i] <= KNOWN);
  plane.curve(seen, "between");
  seen.forEach((place, i) => {
    const predicted = onEllipse(ellipse, form, data.turned[i]);
    const [from, to] = [plane.at(place), plane.at(predicted)];
    add(plane.inside, "path", { d: `M${from}L${to}`, class: "miss" });
    plane.dot(place, "embedding", 3);
    plane.dot(predicted, "prediction", 3);
  });
}

function drawCurves(data, methods) {
  const steps = data[methods[0]].step;
  return Object.entries(CURVES).map(([name, { title }]) => {
    const all = methods.flatMap(method => data[method][name]);
    const high = Math.max(...all) * 1.05;
    const low = Math.min(0, ...all);
    const chart = new Chart($(`curve-${name}`), {
      x: { range: [0, steps.at(-1)], ticks: ticks(0, steps.at(-1)), label: "step" },
      y: { range: [low, high], ticks: ticks(low, high, 3), label: "", text: tick => `${tick}`.replace("-", "−") },
      title,
    });
    for (const method of methods) {
      const form = data.methods[method];
      chart.curve(steps, data[method][name], form);
      if (name === "explained") chart.across(imitation(form, RANGES).share, `${form} level`);
    }
    return { chart, marker: chart.marker() };
  });
}

export async function startTraining() {
  const data = await (await fetch("training.json")).json();
  const methods = Object.keys(data.methods);
  const steps = data[methods[0]].step;
  const curves = drawCurves(data, methods);
  const slider = $("step");
  slider.max = steps.length - 1;
  slider.value = steps.length - 1;
  const show = () => {
    const k = Number(slider.value);
    slider.nextElementSibling.textContent = `${steps[k]}`;
    slider.setAttribute("aria-valuetext", `step ${steps[k]}`);
    for (const { chart, marker } of curves) chart.moveMarker(marker, steps[k]);
    for (const method of methods) {
      drawPlane(data, method, k);
      for (const name of ["loss", "invariance", "equivariance", "r2", "explained"]) {
        const cell = $(`${name}-${method}`);
        cell.dataset.value = data[method][name][k];
        cell.textContent = number(data[method][name][k], name === "invariance" ? 3 : 2);
      }
    }
  };
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
  };
  $("play").addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(slider.value) === steps.length - 1) slider.value = 0;
    $("play").textContent = "Pause";
    show();
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) === steps.length - 1) stop();
    }, PAUSE);
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  $("training").hidden = false;
  show();
  $("training").dataset.ready = "true";
}
