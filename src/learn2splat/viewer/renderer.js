// Draws sorted splats with WebGL 2, by the equations of 3D Gaussian Splatting (arXiv:2308.04079): each Gaussian is a quad, blended far to near.
"use strict";

const PER_ROW = 1024; // splats in a row of the texture of four texels each
const SH_PER_ROW = 256;

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D splats;
uniform mediump sampler2D harmonics;
uniform vec3 shScale;
uniform vec3 right, down, forward, position;
uniform vec2 viewport;
uniform float focal, near;
uniform int coefficients;
in vec2 corner;
in uint order;
out vec2 place;
out vec4 color;

vec3 sh(int row, int k) {
  return texelFetch(harmonics, ivec2((row % ${SH_PER_ROW}) * coefficients + k, row / ${SH_PER_ROW}), 0).rgb;
}

vec3 seen(int row, vec3 base, vec3 d) {
  vec3 c = base;
  if (coefficients < 3) return c;
  float x = d.x, y = d.y, z = d.z;
  c += shScale.x * 0.4886025119 * (-y * sh(row, 0) + z * sh(row, 1) - x * sh(row, 2));
  if (coefficients < 8) return c;
  float xx = x * x, yy = y * y, zz = z * z;
  c += shScale.y * (1.0925484306 * (x * y * sh(row, 3) - y * z * sh(row, 4) - x * z * sh(row, 6) + 0.5 * (xx - yy) * sh(row, 7))
    + 0.3153915653 * (2.0 * zz - xx - yy) * sh(row, 5));
  if (coefficients < 15) return c;
  c += shScale.z * (-0.5900435899 * (y * (3.0 * xx - yy) * sh(row, 8) + x * (xx - 3.0 * yy) * sh(row, 14))
    + 2.8906114426 * x * y * z * sh(row, 9) - 0.4570457995 * (4.0 * zz - xx - yy) * (y * sh(row, 10) + x * sh(row, 12))
    + 0.3731763326 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * sh(row, 11) + 1.4453057213 * z * (xx - yy) * sh(row, 13));
  return c;
}

void main() {
  int row = int(order);
  ivec2 at = ivec2((row % ${PER_ROW}) * 4, row / ${PER_ROW});
  vec4 head = texelFetch(splats, at, 0), one = texelFetch(splats, at + ivec2(1, 0), 0);
  vec4 two = texelFetch(splats, at + ivec2(2, 0), 0), base = texelFetch(splats, at + ivec2(3, 0), 0);
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  place = vec2(0.0);
  color = vec4(0.0);
  vec3 away = head.xyz - position;
  vec3 p = vec3(dot(right, away), dot(down, away), dot(forward, away));
  float opacity = head.w;
  if (p.z < near || opacity < 1.0 / 255.0) return;
  vec2 limit = 1.3 * 0.5 * viewport / focal;
  vec2 slope = clamp(p.xy / p.z, -limit, limit);
  vec3 u = focal / p.z * (right - slope.x * forward), v = focal / p.z * (down - slope.y * forward);
  mat3 S = mat3(one.x, one.y, one.z, one.y, one.w, two.x, one.z, two.x, two.y);
  vec3 Su = S * u;
  float a = dot(u, Su) + 0.3, b = dot(v, Su), c = dot(v, S * v) + 0.3;
  float middle = 0.5 * (a + c), spread = sqrt(max(0.25 * (a - c) * (a - c) + b * b, 1e-9));
  float large = middle + spread, small = max(middle - spread, 0.01);
  vec2 axis = a > c ? vec2(large - c, b) : vec2(b, large - a);
  axis = length(axis) > 1e-9 ? normalize(axis) : vec2(1.0, 0.0);
  float reach = min(3.33, sqrt(2.0 * log(255.0 * opacity)));
  place = corner * reach;
  vec2 offset = place.x * sqrt(large) * axis + place.y * sqrt(small) * vec2(-axis.y, axis.x);
  vec2 centre = focal * p.xy / p.z;
  if (any(greaterThan(abs(centre), 0.5 * viewport + reach * sqrt(large)))) return;
  color = vec4(max(seen(row, base.rgb, normalize(away)), 0.0), opacity);
  gl_Position = vec4((centre + offset) / (0.5 * viewport) * vec2(1.0, -1.0), 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 place;
in vec4 color;
out vec4 result;
void main() {
  float alpha = min(0.999, color.a * exp(-0.5 * dot(place, place)));
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(color.rgb * alpha, alpha);
}`;

// splats: what `unpack` returns. draw(camera): {right, down, forward, position, focal (px), near}.
function makeRenderer(canvas, splats, background) {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
  if (!gl) throw new Error("This browser has no WebGL 2, which drawing splats needs: try another one, or switch hardware acceleration on.");
  const shader = (kind, source) => {
    const made = gl.createShader(kind);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    if (!gl.getShaderParameter(made, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(made));
    return made;
  };
  const rows = Math.ceil(splats.count / PER_ROW);
  const shRows = Math.ceil(splats.count / SH_PER_ROW);
  if (Math.max(rows, splats.coefficients ? shRows : 0) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Error(`${splats.count} splats are more than this machine can draw.`);
  }
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  const uniform = (name) => gl.getUniformLocation(program, name);

  const texture = (unit, name, internal, width, height, kind, data) => {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, gl.RGBA, kind, data);
    gl.uniform1i(uniform(name), unit);
  };
  texture(0, "splats", gl.RGBA32F, 4 * PER_ROW, rows, gl.FLOAT, splats.texels);
  const k = splats.coefficients;
  texture(1, "harmonics", gl.RGBA8_SNORM, k ? k * SH_PER_ROW : 1, k ? shRows : 1, gl.BYTE, k ? splats.harmonics : new Int8Array(4));
  gl.uniform1i(uniform("coefficients"), k);
  gl.uniform3fv(uniform("shScale"), splats.shScale);

  const attribute = (name, data, size, integer) => {
    const buffer = gl.createBuffer();
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, integer ? gl.DYNAMIC_DRAW : gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    if (integer) {
      gl.vertexAttribIPointer(place, size, gl.UNSIGNED_INT, 0, 0);
      gl.vertexAttribDivisor(place, 1);
    } else gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
    return buffer;
  };
  attribute("corner", new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), 2, false);
  const orderBuffer = attribute("order", new Uint32Array(splats.count), 1, true);
  let shown = 0;
  gl.disable(gl.DEPTH_TEST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  gl.clearColor(...background, 1);

  return {
    setOrder(order) {
      gl.bindBuffer(gl.ARRAY_BUFFER, orderBuffer);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, order);
      shown = order.length;
    },
    draw(camera) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT);
      if (!shown) return;
      for (const name of ["right", "down", "forward", "position"]) gl.uniform3fv(uniform(name), camera[name]);
      gl.uniform2f(uniform("viewport"), canvas.width, canvas.height);
      gl.uniform1f(uniform("focal"), camera.focal);
      gl.uniform1f(uniform("near"), camera.near);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, shown);
    },
    onLost(report) {
      canvas.addEventListener("webglcontextlost", report);
    },
  };
}

// From the bytes of page.py: positions f32 x3; log-scales i16 / 1000, quaternions wxyz i16 / 32767; base colour i16 x3 / 4096, opacity u16 / 65535;
// then 3, 8 or 15 coefficients of red, green, blue, i8 / 127 of the scale of their degree.
function unpack(buffer, count, coefficients, shScale) {
  const positions = new Float32Array(buffer, 0, 3 * count);
  const shape = new Int16Array(buffer, 12 * count, 7 * count);
  const color = new Int16Array(buffer, 26 * count, 3 * count);
  const opacity = new Uint16Array(buffer, 32 * count, count);
  const packed = new Int8Array(buffer, 34 * count, 3 * coefficients * count);
  const texels = new Float32Array(16 * PER_ROW * Math.ceil(count / PER_ROW));
  for (let i = 0; i < count; i++) {
    const s = [0, 1, 2].map((k) => Math.exp((2 * shape[7 * i + k]) / 1000));
    let [w, x, y, z] = [3, 4, 5, 6].map((k) => shape[7 * i + k]);
    const length = Math.hypot(w, x, y, z) || 1;
    [w, x, y, z] = [w / length, x / length, y / length, z / length];
    const r = [
      [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
      [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
      [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ];
    const cov = (a, b) => r[a][0] * r[b][0] * s[0] + r[a][1] * r[b][1] * s[1] + r[a][2] * r[b][2] * s[2];
    texels.set(positions.subarray(3 * i, 3 * i + 3), 16 * i);
    texels[16 * i + 3] = opacity[i] / 65535;
    texels.set([cov(0, 0), cov(0, 1), cov(0, 2), cov(1, 1), cov(1, 2), cov(2, 2)], 16 * i + 4);
    texels.set([color[3 * i] / 4096, color[3 * i + 1] / 4096, color[3 * i + 2] / 4096], 16 * i + 12);
  }
  const harmonics = new Int8Array(coefficients ? 4 * coefficients * SH_PER_ROW * Math.ceil(count / SH_PER_ROW) : 0);
  for (let i = 0; i < count * coefficients; i++) {
    for (let k = 0; k < 3; k++) harmonics[4 * i + k] = packed[3 * i + k];
  }
  return { count, coefficients, shScale, positions, texels, harmonics };
}
