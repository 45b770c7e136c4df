/* Pictures on canvases. Colours are those of the style sheet, so that they follow light and dark. */

/** Small picture of 28 x 28 pixels. */
function drawDigit(canvas, pixels) {
  [canvas.width, canvas.height] = [112, 112];
  drawSquares(canvas.getContext("2d"), Array.from(pixels, (pixel) => pixel / 255), 28, 0, 0, 112, colour("ink"));
}

/** The pad with its strokes, in units of its side, and the pen if it is moved by keys. */
function drawPad(canvas, strokes, pen) {
  const [context, width] = sharp(canvas);
  context.clearRect(0, 0, width, width);
  context.strokeStyle = context.fillStyle = colour("ink");
  [context.lineWidth, context.lineCap, context.lineJoin] = [width / 14, "round", "round"];
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y], n) => (n ? context.lineTo(x * width, y * width) : context.moveTo(x * width, y * width)));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * width, stroke[0][1] * width);
    context.stroke();
  }
  if (!pen) return;
  context.beginPath();
  context.arc(pen.x * width, pen.y * width, width / 28, 0, 2 * Math.PI);
  context.fillStyle = context.strokeStyle = colour("glow");
  context.lineWidth = 3;
  if (pen.down) context.fill();
  else context.stroke();
}

/** For every layer with weights: what comes out of it, after ReLU and pooling, and where that stands in activations. */
function groupsOf(net) {
  const weighted = net.layers.map((layer, n) => (layer.value ? n : -1)).filter((n) => n >= 0);
  return weighted.map((n, g) => {
    const end = g + 1 < weighted.length ? weighted[g + 1] : net.layers.length;
    const shape = net.layers[end - 1].out_shape;
    const layer = net.layers[n];
    const units = Array.from(layer.live.keys()).filter((unit) => layer.live[unit]);
    return { layer, before: n, after: end, units, image: shape.length === 3 ? shape : null };
  });
}

const ROOM = 64; // between layers, for the lines
const MOST_LINES = 700; // the strongest are drawn

/** Where everything stands: input and, for each group, a cell per unit; returns the height as well. */
function arrange(groups, width) {
  const side = Math.min(140, width / 2);
  const input = { left: (width - side) / 2, top: 4, side };
  let top = side + 4 + ROOM;
  const cells = groups.map((group, g) => {
    const last = g === groups.length - 1;
    const size = group.image ? Math.min(30, width / 11) : last ? 24 : 10;
    const gap = last ? 8 : 3;
    const columns = Math.max(1, Math.min(group.units.length, Math.floor(width / (size + gap))));
    const rows = Math.ceil(group.units.length / columns);
    const found = new Map();
    group.units.forEach((unit, n) => {
      const row = Math.floor(n / columns);
      const inRow = row === rows - 1 ? group.units.length - row * columns : columns;
      const left = (width - inRow * (size + gap) + gap) / 2 + (n % columns) * (size + gap);
      found.set(unit, { x: left, y: top + row * (size + gap), size });
    });
    top += rows * (size + gap) + (last ? 24 : ROOM);
    return found;
  });
  return { input, cells, height: top };
}

/** Living weights that carry something, the strongest first: {from, to, strength, g}. */
function linesOf(groups, found) {
  const lines = [];
  groups.forEach((group, g) => {
    const { layer } = group;
    const x = found[group.before];
    const channels = layer.kind === "conv" ? layer.in_shape[2] : 0;
    const image = g ? groups[g - 1].image : null;
    const strengths = new Map();
    for (let n = 0; n < layer.value.length; n++) {
      const tap = layer.from[n];
      const from = channels ? tap % channels : image ? tap % image[2] : tap;
      const strength = layer.value[n] * (channels ? 0.3 : x[tap]);
      const key = from * layer.outputs + layer.to[n];
      strengths.set(key, (strengths.get(key) || 0) + strength);
    }
    let most = 1e-9;
    for (const strength of strengths.values()) most = Math.max(most, Math.abs(strength));
    for (const [key, strength] of strengths) {
      const from = Math.floor(key / layer.outputs);
      if (strength) lines.push({ from, to: key % layer.outputs, strength: strength / most, g, whole: channels > 0 });
    }
  });
  return lines.sort((a, b) => Math.abs(b.strength) - Math.abs(a.strength)).slice(0, MOST_LINES);
}

/** The network with its activations; `progress` says how many layers have lit up, a fraction for one on its way. */
function drawNetwork(canvas, net, found, progress) {
  const groups = groupsOf(net);
  const { input, cells, height } = arrange(groups, Math.round(canvas.clientWidth));
  const [context, width] = sharp(canvas, height);
  context.clearRect(0, 0, width, height);
  const lit = (g) => Math.min(1, Math.max(0, progress - g));
  const ends = [colour("minus"), colour("plus")];
  context.lineWidth = 1;
  for (const { from, to, strength, g, whole } of linesOf(groups, found)) {
    const end = cells[g].get(to);
    const start = g ? cells[g - 1].get(from) : null;
    if (!end || (g && !start)) continue;
    const pixel = input.side / 28;
    const x0 = start ? start.x + start.size / 2 : input.left + (whole ? 14 : (from % 28) + 0.5) * pixel;
    const y0 = start ? start.y + start.size : input.top + (whole ? 28 : Math.floor(from / 28) + 0.5) * pixel;
    context.globalAlpha = lit(g) * Math.min(1, 0.08 + 0.9 * Math.abs(strength));
    context.strokeStyle = ends[Number(strength > 0)];
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(end.x + end.size / 2, end.y);
    context.stroke();
  }
  context.globalAlpha = 1;
  context.strokeStyle = colour("line");
  context.strokeRect(input.left, input.top, input.side, input.side);
  const seen = Array.from(found[0], (value, n) => value + net.mean[n] / 255);
  drawSquares(context, seen, 28, input.left, input.top, input.side, colour("ink"));
  groups.forEach((group, g) => drawUnits(context, group, cells[g], found[group.after], lit(g), g === groups.length - 1));
}

/** One layer's units: squares that glow, small images for filters, digits for the last. */
function drawUnits(context, group, cells, values, lit, last) {
  const shown = last ? softmax(values) : values;
  let most = 1e-9;
  for (const value of shown) most = Math.max(most, value);
  const [dark, glow, ink] = [colour("cell"), colour("glow"), colour("ink")];
  for (const [unit, { x, y, size }] of cells) {
    context.globalAlpha = 1;
    context.fillStyle = dark;
    context.fillRect(x, y, size, size);
    if (group.image) {
      const channels = group.image[2];
      const plane = Array.from({ length: values.length / channels }, (_, n) => (lit * values[n * channels + unit]) / most);
      drawSquares(context, plane, group.image[1], x, y, size, glow);
      continue;
    }
    context.globalAlpha = lit * Math.min(1, Math.max(0, shown[unit] / most));
    context.fillStyle = glow;
    context.fillRect(x, y, size, size);
    if (!last) continue;
    context.globalAlpha = 1;
    context.fillStyle = ink;
    [context.font, context.textAlign] = ["14px system-ui, sans-serif", "center"];
    context.fillText(String(unit), x + size / 2, y + size + 16);
  }
  context.globalAlpha = 1;
}

/** Errors over thresholds of both ways to cut, `points` {threshold, byAlpha, bySize} as shares, and the threshold now. */
function drawCurve(canvas, points, now, low, high) {
  const height = 180;
  const [context, width] = sharp(canvas, height);
  const [left, right, top, bottom] = [40, width - 10, 10, height - 26];
  const across = (threshold) => left + ((threshold - low) / (high - low || 1)) * (right - left);
  const most = Math.max(0.05, ...points.flatMap((point) => [point.byAlpha, point.bySize]));
  const up = (share) => bottom - (share / most) * (bottom - top);
  context.clearRect(0, 0, width, height);
  context.strokeStyle = colour("line");
  context.fillStyle = colour("faint");
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "right";
  for (const share of [0, most / 2, most]) {
    context.beginPath();
    context.moveTo(left, up(share));
    context.lineTo(right, up(share));
    context.stroke();
    context.fillText(`${Math.round(100 * share)} %`, left - 6, up(share) + 4);
  }
  context.textAlign = "center";
  for (const threshold of [low, (low + high) / 2, high]) {
    context.fillText(threshold.toFixed(1), Math.min(right - 10, Math.max(left + 10, across(threshold))), height - 8);
  }
  for (const [name, field] of [["minus", "bySize"], ["plus", "byAlpha"]]) {
    context.strokeStyle = colour(name);
    context.lineWidth = 2;
    context.beginPath();
    points.forEach((point, n) => context[n ? "lineTo" : "moveTo"](across(point.threshold), up(point[field])));
    context.stroke();
  }
  context.strokeStyle = colour("glow");
  context.beginPath();
  context.moveTo(across(now), top);
  context.lineTo(across(now), bottom);
  context.stroke();
}
