// Drawings in SVG, in the colours of the page.

const SVG = "http://www.w3.org/2000/svg";

export function add(parent, tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

export function line(points) {
  return points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
}

export function number(value, digits = 2) {
  return value.toFixed(digits).replace("-", "−");
}

// About `count` round values from `low` (0 or less) to `high`, 0 among them.
export function ticks(low, high, count = 4) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, k) => Number(((first + k) * step).toPrecision(6)));
}

// Axes with ticks in an empty SVG; x and y: {range: [low, high], ticks: [...], label, text: tick => "..."}.
// Returns the group to draw in, and the functions from values to places.
export class Chart {
  constructor(svg, { width = 320, height = 190, x, y, title }) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const [left, right, top, bottom] = [y.label === undefined ? 12 : 38 + (y.label ? 18 : 0), 10, title ? 24 : 10, 40];
    this.x = value => left + ((value - x.range[0]) / (x.range[1] - x.range[0])) * (width - left - right);
    this.y = value => height - bottom - ((value - y.range[0]) / (y.range[1] - y.range[0])) * (height - top - bottom);
    this.left = left;
    this.right = width - right;
    this.top = top;
    this.bottom = height - bottom;
    if (title) add(svg, "text", { x: (left + width - right) / 2, y: 15, class: "title" }, title);
    for (const tick of x.ticks ?? []) {
      add(svg, "path", { d: `M${this.x(tick)} ${this.bottom}v4`, class: "axis" });
      add(svg, "text", { x: this.x(tick), y: this.bottom + 16, class: "tick" }, x.text ? x.text(tick) : `${tick}`);
    }
    for (const tick of y.ticks ?? []) {
      add(svg, "path", { d: `M${left} ${this.y(tick)}H${width - right}`, class: "grid" });
      add(svg, "text", { x: left - 5, y: this.y(tick) + 4, class: "tick y" }, y.text ? y.text(tick) : number(tick, 1));
    }
    add(svg, "path", { d: `M${left} ${top}V${this.bottom}H${width - right}`, class: "axis" });
    add(svg, "text", { x: (left + width - right) / 2, y: height - 6, class: "label" }, x.label);
    if (y.label) {
      const middle = (top + this.bottom) / 2;
      add(svg, "text", { x: 12, y: middle, class: "label", transform: `rotate(-90 12 ${middle})` }, y.label);
    }
    this.inside = add(svg, "g");
  }

  curve(xs, ys, style) {
    return add(this.inside, "path", { d: line(xs.map((x, k) => [this.x(x), this.y(ys[k])])), class: `line ${style}` });
  }

  across(y, style) {
    return add(this.inside, "path", { d: `M${this.left} ${this.y(y)}H${this.right}`, class: `line ${style}` });
  }

  marker(style = "now") {
    return add(this.inside, "path", { class: style });
  }

  moveMarker(marker, x) {
    marker.setAttribute("d", `M${this.x(x)} ${this.top}V${this.bottom}`);
  }

  dot(x, y, style, radius = 4) {
    return add(this.inside, "circle", { cx: this.x(x), cy: this.y(y), r: radius, class: style });
  }
}

// The plane of an ellipse: the predictions W(g)z on it, and embeddings projected onto it. `size`: half of its side.
export class Plane {
  constructor(svg, size) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", "0 0 300 300");
    this.scale = 145 / size;
    add(svg, "path", { d: "M150 5V295M5 150H295", class: "grid" });
    add(svg, "text", { x: 154, y: 164, class: "tick origin" }, "0");
    this.inside = add(svg, "g");
  }

  at([x, y]) {
    return [150 + this.scale * x, 150 - this.scale * y];
  }

  curve(points, style) {
    return add(this.inside, "path", { d: line(points.map(p => this.at(p))), class: `line ${style}` });
  }

  dot(point, style, radius = 4) {
    const [cx, cy] = this.at(point);
    return add(this.inside, "circle", { cx, cy, r: radius, class: style });
  }

  move(dot, point) {
    const [cx, cy] = this.at(point);
    dot.setAttribute("cx", cx);
    dot.setAttribute("cy", cy);
  }
}
