// How well a linear function of g imitates a constant: sie.method.predictors.imitable_constant, for any ranges of angles.
import { eulerAngles, inverse, matrix, multiply, quaternion } from "./rotations.js";

export const FORMS = {
  quaternion: g => g,
  matrix,
  euler: eulerAngles,
};

// Pairs of views as points in [-1, 1)^6 that fill it evenly: multiples of powers of the root of x^7 = x + 1, modulo 1.
export function evenPairs(count) {
  let root = 1.1;
  for (let k = 0; k < 50; k++) root = (1 + root) ** (1 / 7);
  const steps = Array.from({ length: 6 }, (_, j) => root ** -(j + 1));
  return Array.from({ length: count }, (_, i) => steps.map(s => 2 * ((0.5 + (i + 1) * s) % 1) - 1));
}

// The transformations between the views of each pair, both ways; `ranges`: largest angles about x, y and z, radians.
export function transformations(pairs, ranges) {
  return pairs.flatMap(pair => {
    const first = quaternion(ranges.map((r, k) => r * pair[k]));
    const second = quaternion(ranges.map((r, k) => r * pair[k + 3]));
    const g = multiply(inverse(first), second);
    return [g, inverse(g)];
  });
}

// The solution of a symmetric, positive definite system, by Gauss's elimination with pivots.
export function solve(matrix, right) {
  const rows = matrix.map((row, i) => [...row, right[i]]);
  const size = rows.length;
  for (let i = 0; i < size; i++) {
    let pivot = i;
    for (let k = i + 1; k < size; k++) if (Math.abs(rows[k][i]) > Math.abs(rows[pivot][i])) pivot = k;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    for (let k = i + 1; k < size; k++) {
      const factor = rows[k][i] / rows[i][i];
      for (let j = i; j <= size; j++) rows[k][j] -= factor * rows[i][j];
    }
  }
  const solution = Array(size).fill(0);
  for (let i = size - 1; i >= 0; i--) {
    let sum = rows[i][size];
    for (let j = i + 1; j < size; j++) sum -= rows[i][j] * solution[j];
    solution[i] = sum / rows[i][i];
  }
  return solution;
}

// Nodes in [-1, 1] and weights of Gauss-Legendre quadrature; the weights sum to 1, for a mean.
function gaussLegendre(count) {
  return Array.from({ length: count }, (_, i) => {
    let x = Math.cos((Math.PI * (i + 0.75)) / (count + 0.5));
    let slope = 0;
    for (let step = 0; step < 20; step++) {
      let before = 1;
      let value = x;
      for (let n = 2; n <= count; n++) [before, value] = [value, ((2 * n - 1) * x * value - (n - 1) * before) / n];
      slope = (count * (x * value - before)) / (x * x - 1);
      x -= value / slope;
    }
    return { x, weight: 1 / ((1 - x * x) * slope * slope) };
  });
}

const NODES = gaussLegendre(12);

// Means of f, an array, and of the products of its entries, over the rotations of one view.
function moments(f, ranges) {
  const size = f([0, 0, 0, 1]).length;
  const mean = Array(size).fill(0);
  const second = mean.map(() => Array(size).fill(0));
  for (const a of NODES)
    for (const b of NODES)
      for (const c of NODES) {
        const values = f(quaternion([a.x * ranges[0], b.x * ranges[1], c.x * ranges[2]]));
        const weight = a.weight * b.weight * c.weight;
        for (let i = 0; i < size; i++) {
          mean[i] += weight * values[i];
          for (let j = 0; j < size; j++) second[i][j] += weight * values[i] * values[j];
        }
      }
  return { mean, second };
}

// q1^-1 q2, entry by entry, as a sum of sign * q1[b] * q2[c].
const UNITS = [0, 1, 2, 3].map(k => [0, 1, 2, 3].map(i => Number(i === k)));
const QUATERNION_TERMS = UNITS.map((_, a) =>
  UNITS.flatMap((p, b) =>
    UNITS.map((q, c) => ({ b, c, sign: multiply(inverse(p), q)[a] })).filter(term => term.sign),
  ),
);
// R1^T R2 likewise, with its entries in rows.
const MATRIX_TERMS = Array.from({ length: 9 }, (_, a) =>
  [0, 1, 2].map(k => ({ b: 3 * k + Math.floor(a / 3), c: 3 * k + (a % 3), sign: 1 })),
);
const PRODUCTS = {
  quaternion: { view: q => q, terms: QUATERNION_TERMS },
  matrix: { view: matrix, terms: MATRIX_TERMS },
};

// The best linear function of g: its coefficients, and the share of a constant that it explains. The expectations over
// pairs of views are exact, since both are independent and the entries of g are sums of products of theirs. In Euler
// angles nothing can be explained, as their means are 0 by symmetry.
export function imitation(form, ranges) {
  if (form === "euler") return { share: 0, coefficients: [0, 0, 0] };
  const { view, terms } = PRODUCTS[form];
  const { mean, second } = moments(view, ranges);
  const sum = (list, value) => list.reduce((total, item) => total + value(item), 0);
  const means = terms.map(own => sum(own, t => t.sign * mean[t.b] * mean[t.c]));
  const matrix = terms.map(own =>
    terms.map(other =>
      sum(own, t => sum(other, u => t.sign * u.sign * second[t.b][u.b] * second[t.c][u.c])),
    ),
  );
  const coefficients = solve(matrix, means);
  return { share: sum(means.map((m, i) => m * coefficients[i]), x => x), coefficients };
}

// The values of the best linear function at some transformations.
export function valuesAt(turns, form, coefficients) {
  return turns.map(g => FORMS[form](g).reduce((total, x, i) => total + x * coefficients[i], 0));
}
