// Turn an object in the latent space of a model, and see the views that the prediction leads to.
// `load` fills the steering page of the site; the default export is the widget of sie.evaluation.steering.

const DEGREE = Math.PI / 180;
const LIMIT = Math.PI / 2; // of the angles, as in the data
const SHOWN = 5; // views found
const STEPS = 16; // of the path from the start to the rotation asked for

// ---- rotations, as in sie.method.rotations: quaternions are [x, y, z, w], angles extrinsic xyz in radians

export function quaternion([x, y, z]) {
  const [cx, cy, cz] = [Math.cos(x / 2), Math.cos(y / 2), Math.cos(z / 2)];
  const [sx, sy, sz] = [Math.sin(x / 2), Math.sin(y / 2), Math.sin(z / 2)];
  return [
    sx * cy * cz - cx * sy * sz,
    cx * sy * cz + sx * cy * sz,
    cx * cy * sz - sx * sy * cz,
    cx * cy * cz + sx * sy * sz,
  ];
}

export function multiply([px, py, pz, pw], [qx, qy, qz, qw]) {
  return [
    pw * qx + px * qw + py * qz - pz * qy,
    pw * qy - px * qz + py * qw + pz * qx,
    pw * qz + px * qy - py * qx + pz * qw,
    pw * qw - px * qx - py * qy - pz * qz,
  ];
}

export const inverse = ([x, y, z, w]) => [-x, -y, -z, w];

export function matrix([x, y, z, w]) {
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
    2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
    2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
  ];
}

export function eulerAngles([x, y, z, w]) {
  const halfSum = Math.atan2(x + z, w - y);
  const halfDifference = Math.atan2(x - z, w + y);
  const aboutY = 2 * Math.atan2(Math.hypot(w + y, x - z), Math.hypot(w - y, x + z)) - Math.PI / 2;
  return [wrapped(halfSum + halfDifference), aboutY, wrapped(halfSum - halfDifference)];
}

const wrapped = angle => angle - 2 * Math.PI * Math.floor((angle + Math.PI) / (2 * Math.PI));

// The angle between two rotations, degrees.
export function angleBetween(p, q) {
  const [x, y, z, w] = multiply(inverse(p), q);
  return (2 * Math.atan2(Math.hypot(x, y, z), Math.abs(w))) / DEGREE;
}

// What a predictor is given for the turn from rotation p to q; colours and the translation t do not change.
export function transformation(form, colour, p, q, t = [0, 0, 0]) {
  const g = multiply(inverse(p), q);
  let entries = g;
  if (form.startsWith("matrix")) entries = matrix(g);
  if (form.startsWith("euler")) entries = eulerAngles(g);
  if (form === "pose") {
    const m = matrix(g);
    const row = i => [...m.slice(3 * i, 3 * i + 3), m[3 * i] * t[0] + m[3 * i + 1] * t[1] + m[3 * i + 2] * t[2] - t[i]];
    entries = [...row(0), ...row(1), ...row(2), 0, 0, 0, 1];
  }
  if (form.endsWith("_translation")) entries = [...entries, 0, 0, 0];
  return colour ? [...entries, 0, 0] : entries;
}

// ---- data

const KINDS = { I8: Int8Array, F32: Float32Array };

// A safetensors file: its tensors as {data, shape}, those with a scale multiplied by it, and the text of its header.
export function readTensors(source) {
  const bytes = source instanceof ArrayBuffer
    ? new Uint8Array(source)
    : new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const text = header.__metadata__;
  delete header.__metadata__;
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
    const content = bytes.slice(8 + length + begin, 8 + length + end); // a copy, which is aligned
    tensors[name] = { data: new KINDS[dtype](content.buffer), shape };
  }
  for (const name of Object.keys(tensors)) {
    const scale = tensors[`${name}.scale`];
    if (!scale) continue;
    const { data, shape } = tensors[name];
    const width = shape.at(-1);
    const values = new Float32Array(data.length);
    for (let i = 0; i < values.length; i++) values[i] = data[i] * scale.data[Math.floor(i / width)];
    tensors[name] = { data: values, shape };
  }
  return { tensors, text };
}

// ---- predictors

function product(weight, inputs, x) { // of a matrix that lies in `weight` row by row, and a vector
  const out = new Float64Array(weight.length / inputs);
  for (let o = 0; o < out.length; o++) {
    let sum = 0;
    for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[i];
    out[o] = sum;
  }
  return out;
}

const relu = x => x.map(value => Math.max(0, value));

class Model {
  constructor(source) {
    const { tensors, text } = readTensors(source);
    this.tensors = tensors;
    Object.assign(this, JSON.parse(text.model));
    [, this.views, this.dim] = tensors.z.shape;
    this.layers = [...this.named("layers")];
    this.trunk = [...this.named("trunk")];
    this.products = { z: null, of: [] };
    this.norms = Float64Array.from({ length: tensors.z.shape[0] * this.views }, (_, k) =>
      Math.hypot(...tensors.z.data.subarray(k * this.dim, (k + 1) * this.dim)));
  }

  // The weights of the predictor's layers, in their order; activations between them have none.
  *named(part) {
    const pattern = new RegExp(`^predictor\\.${part}\\.(\\d+)\\.(?:H|weight)$`);
    const numbers = Object.keys(this.tensors).map(name => pattern.exec(name)?.[1]).filter(Boolean);
    for (const number of numbers.sort((a, b) => a - b)) {
      const tensor = name => this.tensors[`predictor.${part}.${number}.${name}`];
      yield { H: tensor("H"), B: tensor("B"), weight: tensor("weight"), bias: tensor("bias") };
    }
  }

  embedding(object, view) {
    const first = (object * this.views + view) * this.dim;
    return this.tensors.z.data.subarray(first, first + this.dim);
  }

  predict(z, g) {
    return this.kind === "mlp" ? this.throughLinear(this.layers, [...z, ...g]) : this.throughHypernetwork(z, g);
  }

  throughLinear(layers, x, last = false) { // ReLU between the layers, and after the last one too if asked
    layers.forEach(({ weight, bias }, number) => {
      const out = product(weight.data, weight.shape[1], x);
      if (bias) bias.data.forEach((value, o) => { out[o] += value; });
      x = last || number < layers.length - 1 ? relu(out) : out;
    });
    return x;
  }

  throughHypernetwork(z, g) {
    const features = this.trunk.length ? [...this.throughLinear(this.trunk, g, true)] : [...g];
    if (this.bias) features.push(1);
    let x = z;
    this.layers.forEach(({ H, B }, number) => {
      if (number && this.relu) x = relu(x);
      const products = number ? this.allProducts(H, x) : this.firstProducts(H, z);
      const out = new Float64Array(H.shape[1]);
      features.forEach((feature, k) => {
        for (let o = 0; o < out.length; o++) out[o] += feature * (products[k][o] + (B ? B.data[k * out.length + o] : 0));
      });
      x = out;
    });
    return x;
  }

  allProducts(H, x) {
    const size = H.shape[1] * H.shape[2];
    return Array.from({ length: H.shape[0] }, (_, k) => product(H.data.subarray(k * size, (k + 1) * size), H.shape[2], x));
  }

  // H_k z changes with the start only, not with the rotation.
  firstProducts(H, z) {
    if (this.products.z !== z.byteOffset) this.products = { z: z.byteOffset, of: this.allProducts(H, z) };
    return this.products.of;
  }

  similarities(object, prediction) {
    const found = new Float64Array(this.views);
    const length = Math.hypot(...prediction);
    for (let view = 0; view < this.views; view++) {
      const z = this.embedding(object, view);
      let sum = 0;
      for (let i = 0; i < this.dim; i++) sum += z[i] * prediction[i];
      found[view] = sum / (length * this.norms[object * this.views + view]);
    }
    return found;
  }

  // Coordinates of a vector, scaled to length 1, in the plane of the object's principal components.
  inPlane(object, vector) {
    const length = Math.hypot(...vector);
    const { plane_mean: mean, plane_basis: basis } = this.tensors;
    return [0, 1].map(axis => {
      let sum = 0;
      for (let i = 0; i < this.dim; i++) {
        const along = basis.data[(2 * object + axis) * this.dim + i];
        sum += (vector[i] / length - mean.data[object * this.dim + i]) * along;
      }
      return sum;
    });
  }
}

// ---- one search

const ranking = values => Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);

function rankOf(values, right) { // equal values share their mean rank
  let higher = 0;
  let equal = 0;
  for (const value of values) {
    if (value > values[right]) higher += 1;
    if (value === values[right]) equal += 1;
  }
  return 1 + higher + (equal - 1) / 2;
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
}

function shuffled(length, seed) { // mulberry32 and Fisher-Yates: the same order for the same seed
  const random = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const order = Array.from({ length }, (_, k) => k);
  for (let k = length - 1; k > 0; k--) {
    const other = Math.floor(random() * (k + 1));
    [order[k], order[other]] = [order[other], order[k]];
  }
  return order;
}

export class Steering {
  constructor(views, models) {
    const { tensors, text } = readTensors(views);
    Object.assign(this, JSON.parse(text.views));
    [this.objects, this.views] = tensors.angles.shape;
    this.tensors = tensors;
    this.models = models.map(source => new Model(source));
    this.quaternions = Array.from({ length: this.objects }, (_, object) =>
      Array.from({ length: this.views }, (_, view) => quaternion(this.angles(object, view))));
  }

  angles(object, view) {
    const first = 3 * (object * this.views + view);
    return [...this.tensors.angles.data.subarray(first, first + 3)];
  }

  translation(object, view) {
    const { translations } = this.tensors;
    const first = 3 * (object * this.views + view);
    return translations ? [...translations.data.subarray(first, first + 3)] : [0, 0, 0];
  }

  // Angles from every view to a rotation, degrees.
  distances(object, q) {
    return this.quaternions[object].map(p => angleBetween(p, q));
  }

  // The prediction by a model ("identity": the start's own embedding) for a rotation.
  predict(model, object, start, q, by = "model") {
    const z = model.embedding(object, start);
    if (by === "identity") return z;
    const p = this.quaternions[object][start];
    return model.predict(z, transformation(model.form, model.colour, p, q, this.translation(object, start)));
  }

  // `by` is "model", "identity" or "chance"
  search(model, object, start, angles, by = "model") {
    const q = quaternion(angles);
    const distances = this.distances(object, q);
    const nearest = distances.indexOf(Math.min(...distances));
    const result = { q, distances, true: nearest, possible: distances[nearest] };
    result.turn = angleBetween(this.quaternions[object][start], q);
    if (by === "chance") {
      result.order = shuffled(this.views, 1000 * start + nearest + 1);
      result.rank = 1 + result.order.indexOf(nearest);
    } else {
      result.prediction = this.predict(model, object, start, q, by);
      result.similarities = model.similarities(object, result.prediction);
      result.order = ranking(result.similarities);
      result.rank = rankOf(result.similarities, nearest);
    }
    result.error = distances[result.order[0]];
    return result;
  }

  // Over all views of the object as targets, from one start: mean of 1/rank, and the median error.
  summary(model, object, start, by = "model") {
    const rotations = this.quaternions[object];
    if (by === "chance") {
      const mrr = rotations.reduce((sum, _, k) => sum + 1 / (k + 1), 0) / this.views;
      return { mrr, error: median(rotations.flatMap(q => this.distances(object, q))) };
    }
    const errors = [];
    let mrr = 0;
    rotations.forEach((q, target) => {
      const similarities = model.similarities(object, this.predict(model, object, start, q, by));
      mrr += 1 / rankOf(similarities, target) / this.views;
      errors.push(angleBetween(rotations[similarities.indexOf(Math.max(...similarities))], q));
    });
    return { mrr, error: median(errors) };
  }

  // From the start to the rotation asked for, in equal steps of the three angles: predictions, and the nearest views.
  path(model, object, start, angles, by = "model") {
    const from = this.angles(object, start);
    return Array.from({ length: STEPS + 1 }, (_, step) => {
      const q = quaternion(from.map((angle, axis) => angle + (step / STEPS) * (angles[axis] - angle)));
      const distances = this.distances(object, q);
      const real = step ? distances.indexOf(Math.min(...distances)) : start;
      return { real, prediction: this.predict(model, object, start, q, by) };
    });
  }
}

// ---- the page

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const degrees = value => `${Math.round(value)}°`;
const fixed = (value, digits) => value.toFixed(digits);
let pages = 0; // names of radio buttons must differ between widgets on a page

class Page {
  constructor(root, steering, sheets) {
    this.root = root;
    this.steering = steering;
    this.sheets = sheets;
    this.number = (pages += 1);
    this.object = 0;
    this.start = 0;
    this.by = 0; // number of a model, "identity" or "chance"
    this.model = 0; // the last model chosen, in whose space the identity is
    this.asked = this.inside(this.steering.angles(0, 0));
    this.asked[2] += (this.asked[2] > 0 ? -70 : 70) * DEGREE; // a turn to begin with
    this.frame = 0;
    this.build();
    this.begin();
  }

  // ---- parts

  view(className = "") {
    return element("span", { className: `st-view ${className}`, role: "img" });
  }

  show(span, view, label) {
    const { columns } = this.steering;
    const rows = Math.ceil(this.steering.views / columns);
    const along = (k, count) => (count > 1 ? (100 * k) / (count - 1) : 0);
    span.style.backgroundImage = `url("${this.sheets[this.object]}")`;
    span.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    span.style.backgroundPosition = `${along(view % columns, columns)}% ${along(Math.floor(view / columns), rows)}%`;
    if (label) span.setAttribute("aria-label", label);
  }

  choices(legend, name, values, changed) {
    const inputs = values.map(({ value, content }) => {
      const input = element("input", { type: "radio", name: `st-${name}-${this.number}`, value });
      input.addEventListener("change", () => changed(value));
      return { input, label: element("label", {}, input, ...content) };
    });
    const box = element("fieldset", { className: `st-${name}` }, element("legend", {}, legend));
    box.append(element("div", { className: "st-choices" }, ...inputs.map(({ label }) => label)));
    return { box, inputs: inputs.map(({ input }) => input) };
  }

  build() {
    const { names, models } = this.steering;
    const pictures = names.map((name, object) => {
      const span = this.view();
      this.object = object;
      this.show(span, 0);
      span.setAttribute("aria-hidden", "true");
      return { value: object, content: [span, element("span", { className: "st-name" }, name)] };
    });
    this.object = 0;
    this.objects = this.choices("Object", "object", pictures, value => this.choose({ object: value }));
    this.startViews = Array.from({ length: Math.min(this.steering.starts, this.steering.views) }, () => this.view());
    this.starts = this.choices("Start view", "start", this.startViews.map((span, value) => ({ value, content: [span] })),
      value => this.choose({ start: value }));
    const kinds = [
      ...models.map((model, value) => ({ value, content: [element("span", { className: "st-name" }, model.name)] })),
      { value: "identity", content: [element("span", { className: "st-name" }, "identity")] },
      { value: "chance", content: [element("span", { className: "st-name" }, "chance")] },
    ];
    this.kinds = this.choices("Predicted by", "by", kinds, value => this.choose({ by: value }));
    this.root.replaceChildren(element("div", { className: "steering" },
      this.objects.box, this.starts.box, this.kinds.box, this.stage(), this.numbers(), this.panels()));
  }

  stage() {
    this.fromView = this.view("st-large");
    this.trueView = this.view("st-large st-drag");
    this.axes = ["x", "y", "z"].map(name => {
      const line = drawn("line", { x1: 0, y1: 0 });
      const letter = drawn("text", {}, name);
      return { line, letter, group: drawn("g", { class: `st-axis st-${name}` }, line, letter) };
    });
    this.trueView.append(drawn("svg", { viewBox: "-1 -1 2 2", "aria-hidden": "true" }, ...this.axes.map(a => a.group)));
    this.foundViews = Array.from({ length: Math.min(SHOWN, this.steering.views) }, (_, k) => {
      const span = this.view(k ? "" : "st-large");
      const text = element("figcaption");
      return { span, text, figure: element("figure", { className: k ? "st-next" : "st-first" }, span, text) };
    });
    this.trueText = element("figcaption");
    this.sliders = ["x", "y", "z"].map((name, axis) => this.slider(name, axis));
    this.dragging();
    const back = element("button", { type: "button" }, "Back to the start");
    back.addEventListener("click", () => this.ask(this.inside(this.steering.angles(this.object, this.start))));
    const other = element("button", { type: "button" }, "Some other turn");
    other.addEventListener("click", () => this.ask([0, 1, 2].map(() => (2 * Math.random() - 1) * LIMIT)));
    const [first, ...next] = this.foundViews.map(({ figure }) => figure);
    const figures = element("div", { className: "st-figures" },
      element("figure", {}, this.fromView, element("figcaption", {}, "start")),
      element("figure", {}, this.trueView, this.trueText),
      first,
      element("div", { className: "st-others" }, ...next));
    const controls = element("div", { className: "st-controls" },
      ...this.sliders.map(({ label }) => label), element("div", { className: "st-buttons" }, back, other));
    return element("div", { className: "st-stage" }, figures, controls);
  }

  slider(name, axis) {
    const input = element("input", { type: "range", min: -90, max: 90, step: 1 });
    const value = element("output");
    input.addEventListener("input", () => {
      const asked = [...this.asked];
      asked[axis] = input.value * DEGREE;
      this.ask(asked);
    });
    return { input, value, label: element("label", {}, element("span", {}, `rotation ${name}`), input, value) };
  }

  dragging() {
    let last = null;
    this.trueView.addEventListener("pointerdown", event => {
      last = event;
      this.trueView.setPointerCapture(event.pointerId);
    });
    this.trueView.addEventListener("pointermove", event => {
      if (!last) return;
      const scale = (120 * DEGREE) / this.trueView.offsetWidth; // radians a pixel
      this.turnBy((event.clientX - last.clientX) * scale, (event.clientY - last.clientY) * scale);
      last = event;
    });
    for (const kind of ["pointerup", "pointercancel"]) this.trueView.addEventListener(kind, () => { last = null; });
  }

  // Turn what is seen: to the right about the vertical axis, and down about the axis to the camera's side.
  turnBy(right, down) {
    const turn = multiply(quaternion([0, 0, right]), quaternion([-down, 0, 0]));
    const wanted = multiply(turn, quaternion(this.asked));
    const inside = this.inside(eulerAngles(wanted));
    const missed = angleBetween(quaternion(inside), wanted) * DEGREE;
    if (missed <= 2 * Math.hypot(right, down)) this.ask(inside); // else beyond the range, where it would jump
  }

  numbers() {
    const number = (name, label) => {
      this[name] = element("strong");
      return element("div", {}, this[name], element("span", {}, label));
    };
    this.sentence = element("p", { className: "st-sentence", role: "status" });
    return element("div", { className: "st-numbers" },
      number("turnText", "turn asked for"), number("rankText", `rank of the true view, of ${this.steering.views}`),
      number("errorText", "error of the first view found"), number("possibleText", "least possible error"), this.sentence);
  }

  panels() {
    this.dots = drawn("g", { class: "st-dots" });
    this.realPath = drawn("polyline", { class: "st-real" });
    this.predictedPath = drawn("polyline", { class: "st-predicted" });
    this.marks = drawn("g");
    this.svg = drawn("svg", { viewBox: "-1.1 -1.1 2.2 2.2", class: "st-plane", role: "img" });
    this.svg.setAttribute("aria-label", "Path of the predictions beside the embeddings of real views, in a plane");
    this.svg.append(this.dots, this.realPath, this.predictedPath, this.marks);
    this.planeText = element("figcaption");
    const key = (kind, text) => element("li", { className: `st-key-${kind}` }, text);
    const keys = element("ul", { className: "st-keys" }, key("dot", "all views"), key("start", "start"),
      key("real", "true views on the way"), key("predicted", "predictions on the way"));
    this.table = element("table", { className: "st-table" });
    this.errorNote = element("p", { className: "st-note" });
    return element("div", { className: "st-panels" },
      element("figure", { className: "st-path" }, this.svg, keys, this.planeText),
      element("div", {}, this.table, this.errorNote));
  }

  // ---- what changes

  choose({ object = this.object, start = this.start, by = this.by }) {
    this.object = object;
    this.start = start;
    this.by = by;
    if (typeof by === "number") this.model = by;
    this.begin();
  }

  inside(angles) {
    return angles.map(angle => Math.max(-LIMIT, Math.min(LIMIT, angle)));
  }

  ask(angles) {
    this.asked = angles;
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.update(); });
  }

  get current() {
    return this.steering.models[this.model];
  }

  get kind() {
    return typeof this.by === "number" ? "model" : this.by;
  }

  begin() { // another object, start or model
    this.objects.inputs[this.object].checked = true;
    this.starts.inputs[this.start].checked = true;
    this.kinds.inputs.forEach(input => { input.checked = input.value === String(this.by); });
    this.startViews.forEach((span, view) => this.show(span, view, `view ${view + 1}`));
    this.show(this.fromView, this.start, `start: view ${this.start + 1} of ${this.steering.names[this.object]}`);
    this.drawPlane();
    this.drawTable();
    this.update();
  }

  update() {
    const { steering, object, start } = this;
    const result = steering.search(this.current, object, start, this.asked, this.kind);
    this.result = result;
    this.show(this.trueView, result.true, "true view: the one whose rotation is nearest to the one asked for");
    this.trueText.textContent = `true view, ${degrees(result.possible)} off`;
    this.drawAxes(result.q);
    this.foundViews.forEach(({ span, text, figure }, place) => {
      const view = result.order[place];
      this.show(span, view, `found in place ${place + 1}, ${degrees(result.distances[view])} from the rotation asked for`);
      text.textContent = `${place ? place + 1 : "first found"}, ${degrees(result.distances[view])} off`;
      figure.classList.toggle("st-right", view === result.true);
    });
    this.sliders.forEach(({ input, value }, axis) => {
      input.value = this.asked[axis] / DEGREE;
      value.textContent = degrees(this.asked[axis] / DEGREE);
    });
    this.turnText.textContent = degrees(result.turn);
    this.rankText.textContent = Number.isInteger(result.rank) ? String(result.rank) : fixed(result.rank, 1);
    this.errorText.textContent = degrees(result.error);
    this.possibleText.textContent = degrees(result.possible);
    this.drawPath();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.say(), 600); // a screen reader is told when the turning pauses
  }

  say() {
    const { result } = this;
    const who = this.kind === "model" ? this.current.name : this.kind;
    this.sentence.textContent = `${who}: the true view has rank ${this.rankText.textContent} of ${this.steering.views}; ` +
      `the first view found is ${degrees(result.error)} from the rotation asked for, ` +
      `the true view ${degrees(result.possible)}.`;
  }

  // The object's own axes, as the camera sees them: it looks from (0, 1, 1) on the origin, with z up.
  drawAxes(q) {
    const m = matrix(q);
    this.axes.forEach(({ line, letter, group }, axis) => {
      const [x, y, z] = [m[axis], m[3 + axis], m[6 + axis]];
      const [right, down, near] = [-x, (y - z) * Math.SQRT1_2, (y + z) * Math.SQRT1_2];
      line.setAttribute("x2", 0.75 * right);
      line.setAttribute("y2", 0.75 * down);
      letter.setAttribute("x", 0.88 * right);
      letter.setAttribute("y", 0.88 * down);
      group.style.opacity = near < -0.2 ? 0.55 : 1;
    });
  }

  drawPlane() { // the views of the object, once for each object and model
    const { steering, object, current } = this;
    const points = Array.from({ length: steering.views }, (_, v) => current.inPlane(object, current.embedding(object, v)));
    const reach = Math.max(...points.flat().map(Math.abs), 1e-9);
    this.scaled = ([x, y]) => [x / reach, -y / reach];
    this.places = points.map(this.scaled);
    this.dots.replaceChildren(...this.places.map(([cx, cy]) => drawn("circle", { cx, cy, r: 0.014 })));
    const share = current.tensors.plane_share.data;
    const percent = axis => `${Math.round(100 * share[2 * object + axis])} %`;
    this.planeText.textContent = `The two largest principal components of the embeddings of all views: ` +
      `${percent(0)} (across) and ${percent(1)} (up) of their variance.`;
  }

  drawPath() {
    const mark = ([x, y], kind, r) => kind === "square"
      ? drawn("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, class: "st-predicted" })
      : drawn("circle", { cx: x, cy: y, r, class: kind });
    const star = mark(this.places[this.start], "st-start", 0.05);
    if (this.kind === "chance") {
      this.realPath.setAttribute("points", "");
      this.predictedPath.setAttribute("points", "");
      this.marks.replaceChildren(star);
      return;
    }
    const steps = this.steering.path(this.current, this.object, this.start, this.asked, this.kind);
    const real = steps.map(step => this.places[step.real]);
    const predicted = steps.map(step => this.scaled(this.current.inPlane(this.object, step.prediction)));
    this.realPath.setAttribute("points", real.join(" "));
    this.predictedPath.setAttribute("points", predicted.join(" "));
    this.marks.replaceChildren(...real.map(p => mark(p, "st-real", 0.02)),
      ...predicted.map(p => mark(p, "square", 0.018)), star);
  }

  drawTable() {
    const { steering, object, start } = this;
    const rows = [...steering.models.map((model, k) => [model.name, k, steering.summary(model, object, start)]),
      ["identity", "identity", steering.summary(this.current, object, start, "identity")],
      ["chance", "chance", steering.summary(this.current, object, start, "chance")]];
    const cells = (tag, texts) => element("tr", {}, ...texts.map(text => element(tag, {}, text)));
    const body = rows.map(([name, by, { mrr, error }]) => {
      const row = cells("td", [name, fixed(mrr, 2), degrees(error)]);
      row.classList.toggle("st-current", by === this.by);
      return row;
    });
    this.table.replaceChildren(
      element("caption", {}, `From this start, over all ${steering.views} views of the object as targets`),
      element("thead", {}, cells("th", ["", "mean of 1/rank", "median error"])), element("tbody", {}, ...body));
    this.summaries = rows;
    const { error, typical_error: typical } = this.current;
    this.errorNote.textContent = `To be small, embeddings and matrices are stored in 8 bits. The cosines of ` +
      `${this.current.name} differ from the model's own by ${typical.toFixed(4)} on average (root mean square), and by ` +
      `${error.toFixed(3)} at most.`;
  }
}

// ---- where it comes from

export function mount(root, views, models, sheets) {
  root.steering = new Page(root, new Steering(views, models), sheets);
  return root.steering;
}

// Fill an element of a page with data in a folder. What the element held before stays if that fails.
export async function load(root, folder) {
  const fetched = async name => {
    const answer = await fetch(folder + name);
    if (!answer.ok) throw new Error(`${folder}${name}: ${answer.status}`);
    return answer.arrayBuffer();
  };
  const views = await fetched("views.safetensors");
  const { models, sheets } = JSON.parse(readTensors(views).text.views);
  return mount(root, views, await Promise.all(models.map(fetched)), sheets.map(name => folder + name));
}

export default {
  render({ model, el }) {
    const sheets = model.get("sheets").map(sheet => URL.createObjectURL(new Blob([sheet], { type: "image/webp" })));
    mount(el, model.get("views"), model.get("models"), sheets);
    return () => sheets.forEach(url => URL.revokeObjectURL(url));
  },
};
