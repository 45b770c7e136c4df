/* The recorded run: the network at each epoch, cut at any threshold, and a picture of what is left. */

const LOOKS = { steps: 6, room: 70 }; // shades of the lines, pixels between two rows of units

/** Undo the differences from one epoch to the next, in place. */
function summed(values, width) {
  for (let n = width; n < values.length; n++) values[n] += values[n - width]; // wraps around as the writer did
  return values;
}

/** The network after an epoch (from 0), its log alpha beside it in eighths, rounded up. */
function netAt(data, epoch) {
  let [at, unit] = [0, 0];
  const total = data.logAlpha.length / data.epochs;
  return data.sizes.slice(1).map((outputs, number) => {
    const inputs = data.sizes[number];
    const take = (name) => data[name].subarray(epoch * total + at, epoch * total + at + inputs * outputs);
    const theta = Float64Array.from(take("theta"), (whole) => whole * data.scale[epoch * 2 + number]);
    const logSigma2 = Float64Array.from(take("logSigma2"), (eighths) => eighths / data.steps - data.sigmaShift);
    const units = data.bias.length / data.epochs;
    const bias = Float64Array.from(data.bias.subarray(epoch * units + unit, epoch * units + unit + outputs));
    const layer = { inputs, outputs, theta, logSigma2, bias, eighths: take("logAlpha") };
    at += inputs * outputs;
    unit += outputs;
    return layer;
  });
}

/** Which weights have log alpha at most the threshold, per layer. */
function masksByAlpha(net, threshold, steps) {
  return net.map((layer) => Uint8Array.from(layer.eighths, (value) => value <= threshold * steps));
}

/** All weights as [layer, number, size], the largest first; of equal ones that which comes first. */
function bySize(net) {
  const all = net.flatMap((layer, l) => Array.from(layer.theta, (value, n) => [l, n, Math.abs(value)]));
  return all.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
}

/** The `count` largest weights of all layers. */
function masksBySize(net, order, count) {
  const masks = net.map((layer) => new Uint8Array(layer.theta.length));
  for (const [l, n] of order.slice(0, count)) masks[l][n] = 1;
  return masks;
}

/** Weights, bytes and hidden units that are left. */
function sizeOf(net, masks) {
  let [weights, biases] = [0, 0];
  const fed = net.map(({ outputs }, number) => {
    const has = new Uint8Array(outputs);
    masks[number].forEach((mask, n) => (has[n % outputs] |= mask));
    weights += masks[number].reduce((sum, mask) => sum + mask, 0);
    biases += has.reduce((sum, one) => sum + one, 0);
    return has;
  });
  const { outputs } = net[1];
  const units = fed[0].map((has, unit) => has && masks[1].subarray(unit * outputs, (unit + 1) * outputs).includes(1));
  return { weights, bytes: 2 * weights + 2 * biases, units };
}

/** Where the units stand: an 8 x 8 picture, the hidden units in one or two rows, the outputs. */
function arrangeUnits(net, width) {
  const [pixel, rows] = [14, width < 600 ? 2 : 1];
  const perRow = net[0].outputs / rows;
  const pitch = width / perRow;
  const spread = (count, top, cell) =>
    Array.from({ length: count }, (_, n) => ({ x: ((n + 0.5) * width) / count, y: top, cell }));
  const inputs = Array.from({ length: 64 }, (_, n) => ({
    x: width / 2 + ((n % 8) - 3.5) * pixel,
    y: 2 + (Math.floor(n / 8) + 0.5) * pixel,
    cell: pixel - 2,
  }));
  const top = 8 * pixel + LOOKS.room;
  const hidden = range(0, rows - 1, 1).flatMap((row) => spread(perRow, top + row * 12, Math.min(7, pitch - 1)));
  const bottom = top + rows * 12 + LOOKS.room;
  return { places: [inputs, hidden, spread(net[1].outputs, bottom, 14)], height: bottom + 28 };
}

/** Living weights as lines, the fainter the nearer to the threshold; units without a way through are dark. */
function drawNet(canvas, net, masks, threshold, steps, units) {
  const { places, height } = arrangeUnits(net, Math.round(canvas.clientWidth));
  const [context, width] = sharp(canvas, height);
  context.clearRect(0, 0, width, height);
  const total = masks.reduce((sum, mask) => sum + mask.reduce((a, b) => a + b, 0), 0);
  const strength = Math.min(1, Math.sqrt(150 / Math.max(1, total)));
  net.forEach(({ theta, outputs, eighths }, number) => {
    const paths = Array.from({ length: 2 * LOOKS.steps }, () => new Path2D());
    theta.forEach((value, n) => {
      if (!masks[number][n]) return;
      const margin = Math.min(LOOKS.steps - 1, Math.floor((threshold - eighths[n] / steps) / 1.5));
      const [from, to] = [places[number][Math.floor(n / outputs)], places[number + 1][n % outputs]];
      const path = paths[2 * margin + Number(value > 0)];
      path.moveTo(from.x, from.y + from.cell / 2);
      path.lineTo(to.x, to.y - to.cell / 2);
    });
    paths.forEach((path, k) => {
      context.strokeStyle = colour(k % 2 ? "plus" : "minus");
      context.globalAlpha = strength * (0.15 + (0.85 * Math.floor(k / 2)) / (LOOKS.steps - 1));
      context.stroke(path);
    });
  });
  context.globalAlpha = 1;
  const used = places[0].map((_, n) => masks[0].subarray(n * net[0].outputs, (n + 1) * net[0].outputs).includes(1));
  [used, units, new Uint8Array(10).fill(1)].forEach((lit, row) =>
    places[row].forEach(({ x, y, cell }, n) => {
      context.fillStyle = colour(lit[n] ? "glow" : "cell");
      context.fillRect(x - cell / 2, y - cell / 2, cell, cell);
    }),
  );
  [context.font, context.textAlign, context.fillStyle] = ["14px system-ui, sans-serif", "center", colour("ink")];
  places[2].forEach(({ x, y }, n) => context.fillText(String(n), x, y + 22));
}

/** Counts of log alpha between -8 and 16 in halves; the outermost bars hold everything beyond. */
function countsOf(net, steps) {
  const counts = new Array(48).fill(0);
  for (const layer of net) {
    for (const eighths of layer.eighths) counts[Math.min(47, Math.max(0, Math.floor(((eighths - 1) / steps + 8) * 2)))] += 1;
  }
  return counts;
}

function startEmpties(data) {
  const x = Float64Array.from(data.xTest, (value) => value / 16);
  const labels = Array.from(data.testLabels);
  const state = { net: null, masks: null, epoch: -1, timer: 0 };
  const draw = oncePerFrame(drawNow);
  const epoch = slider("epoch", (value) => `${value} of ${data.epochs}`, draw);
  const threshold = slider("threshold", (value) => signed(value, 3), draw);
  const rows = { alpha: "", size: "-size", all: "-all" };

  function show(name, masks) {
    const { weights, bytes } = sizeOf(state.net, masks);
    const error = errorOf(predict(state.net, masks, x, labels.length), labels);
    element(`weights${rows[name]}`).textContent = thousands(weights);
    element(`bytes${rows[name]}`).textContent = thousands(bytes);
    element(`error${rows[name]}`).textContent = percent(error, 1);
    return { weights, error };
  }

  function drawNow() {
    if (state.epoch !== epoch.value) {
      [state.epoch, state.net] = [epoch.value, netAt(data, epoch.value - 1)];
      state.order = bySize(state.net);
      show("all", state.net.map((layer) => new Uint8Array(layer.theta.length).fill(1)));
    }
    state.masks = masksByAlpha(state.net, threshold.value, data.steps);
    state.byAlpha = show("alpha", state.masks);
    state.sizeMasks = masksBySize(state.net, state.order, state.byAlpha.weights);
    state.bySize = show("size", state.sizeMasks);
    const { units } = sizeOf(state.net, state.masks);
    const living = units.reduce((sum, one) => sum + one, 0);
    element("units").textContent = `${living} of ${units.length} hidden units have a way in and a way out.`;
    drawNet(element("net"), state.net, state.masks, threshold.value, data.steps, units);
    element("net").setAttribute("aria-label", `The network: ${state.byAlpha.weights} weights, ${living} hidden units`);
    state.box = drawHistogram(element("heap"), countsOf(state.net, data.steps), range(-8, 16, 0.5), threshold.value);
    play.pad?.judge();
  }

  function setThreshold(value) {
    threshold.input.value = value;
    threshold.write();
    draw();
  }

  function stop() {
    clearInterval(state.timer);
    state.timer = 0;
    element("run").textContent = "Play";
  }

  element("run").addEventListener("click", () => {
    if (state.timer) return stop();
    if (epoch.value === data.epochs) epoch.input.value = 0;
    element("run").textContent = "Pause";
    state.timer = setInterval(() => {
      epoch.input.value = epoch.value + 1;
      epoch.write();
      draw();
      if (epoch.value >= data.epochs) stop();
    }, 250);
  });
  draggable(element("heap"), (px) => setThreshold(state.box.valueAt(px, 0)[0]));
  steerable(element("heap"), (dx) => setThreshold(threshold.value + dx / data.steps));
  play.empties = { state, draw, setThreshold };
  drawNow();
}
