// Orders splats from far to near. Runs in a worker, or in the page where workers are not allowed.
"use strict";

function makeSorter(positions) {
  const count = positions.length / 3;
  const depths = new Float32Array(count);
  const bits = new Int32Array(depths.buffer); // those of positive floats are in the order of the floats, about as their logarithms
  const buckets = new Uint32Array(65536);
  return function sort(forward, position, near) {
    const [fx, fy, fz] = forward;
    const offset = fx * position[0] + fy * position[1] + fz * position[2];
    let low = 0x7fffffff;
    let high = 0;
    let visible = 0;
    for (let i = 0; i < count; i++) {
      const depth = fx * positions[3 * i] + fy * positions[3 * i + 1] + fz * positions[3 * i + 2] - offset;
      if (!(depth > near)) {
        depths[i] = -1;
        continue;
      }
      depths[i] = depth;
      visible++;
      if (bits[i] < low) low = bits[i];
      if (bits[i] > high) high = bits[i];
    }
    const scale = 65535 / Math.max(1, high - low);
    buckets.fill(0);
    for (let i = 0; i < count; i++) if (depths[i] > 0) buckets[((high - bits[i]) * scale) | 0]++;
    for (let i = 0, sum = 0; i < 65536; i++) {
      const here = buckets[i];
      buckets[i] = sum;
      sum += here;
    }
    const order = new Uint32Array(visible);
    for (let i = 0; i < count; i++) if (depths[i] > 0) order[buckets[((high - bits[i]) * scale) | 0]++] = i;
    return order;
  };
}
