// Rotations for the pages in this folder: those of the steering page, which are those of sie.method.rotations.
export { angleBetween, eulerAngles, inverse, matrix, multiply, quaternion } from "../steering/steering.js";

export const DEGREE = Math.PI / 180;

export function about(axis, angle) {
  const s = Math.sin(angle / 2);
  return [axis[0] * s, axis[1] * s, axis[2] * s, Math.cos(angle / 2)];
}
