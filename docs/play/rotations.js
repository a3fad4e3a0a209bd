// Rotations as in sie.method.rotations: quaternions (x, y, z, w), extrinsic xyz angles in radians.

export const DEGREE = Math.PI / 180;

export function eulerToQuaternion([x, y, z]) {
  const [cx, cy, cz] = [x, y, z].map(a => Math.cos(a / 2));
  const [sx, sy, sz] = [x, y, z].map(a => Math.sin(a / 2));
  return [
    sx * cy * cz - cx * sy * sz,
    cx * sy * cz + sx * cy * sz,
    cx * cy * sz - sx * sy * cz,
    cx * cy * cz + sx * sy * sz,
  ];
}

// The rotation q followed by p.
export function multiply([px, py, pz, pw], [qx, qy, qz, qw]) {
  return [
    pw * qx + px * qw + py * qz - pz * qy,
    pw * qy - px * qz + py * qw + pz * qx,
    pw * qz + px * qy - py * qx + pz * qw,
    pw * qw - px * qx - py * qy - pz * qz,
  ];
}

export function inverse([x, y, z, w]) {
  return [-x, -y, -z, w];
}

// The nine entries, row by row.
export function toMatrix([x, y, z, w]) {
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
    2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
    2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
  ];
}

function wrapped(angle) {
  const turn = 2 * Math.PI;
  return ((((angle + Math.PI) % turn) + turn) % turn) - Math.PI;
}

export function toEuler([x, y, z, w]) {
  const halfSum = Math.atan2(x + z, w - y);
  const halfDifference = Math.atan2(x - z, w + y);
  const y_ = 2 * Math.atan2(Math.hypot(w + y, x - z), Math.hypot(w - y, x + z)) - Math.PI / 2;
  return [wrapped(halfSum + halfDifference), y_, wrapped(halfSum - halfDifference)];
}

export function about(axis, angle) {
  const s = Math.sin(angle / 2);
  return [axis[0] * s, axis[1] * s, axis[2] * s, Math.cos(angle / 2)];
}

// The angle of the rotation between two rotations, 0 to pi; q and -q are the same rotation.
export function angleBetween(p, q) {
  const cosine = Math.abs(p[0] * q[0] + p[1] * q[1] + p[2] * q[2] + p[3] * q[3]);
  return 2 * Math.acos(Math.min(1, cosine));
}

// The transformation between two views in one of the forms of the library.
export function transformation(first, second, form) {
  const g = multiply(inverse(eulerToQuaternion(first)), eulerToQuaternion(second));
  return { quaternion: () => g, matrix: () => toMatrix(g), euler: () => toEuler(g) }[form]();
}
