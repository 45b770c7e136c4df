/* A pad on which the reader draws a digit, made into 8 x 8 pixels as those of the data were, and three opinions on it. */

const PAD = { grid: 32, pen: 1.7, samples: 50, keyStep: 1 / 32 };

/**
 * Strokes (points from 0 to 1) as 64 pixels from 0 to 16: scaled to fill a 32 x 32 grid from top to bottom, or from side
 * to side, set in its middle, and counted in squares of 4 x 4.
 */
function pixelsOf(strokes) {
  const points = strokes.flat();
  const pixels = new Uint8Array(64);
  if (!points.length) return pixels;
  const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const inner = PAD.grid - 2 * PAD.pen;
  const scale = inner / Math.max(right - left, bottom - top, 0.2);
  const place = ([x, y]) => [(x - (left + right) / 2) * scale + PAD.grid / 2, (y - (top + bottom) / 2) * scale + PAD.grid / 2];
  const inked = new Uint8Array(PAD.grid ** 2);
  for (const stroke of strokes) {
    const placed = stroke.map(place);
    placed.forEach(([x, y], n) => {
      const [x0, y0] = placed[Math.max(0, n - 1)];
      const parts = Math.max(1, Math.ceil(Math.hypot(x - x0, y - y0) * 2));
      for (let k = 0; k <= parts; k++) stamp(inked, x0 + ((x - x0) * k) / parts, y0 + ((y - y0) * k) / parts);
    });
  }
  inked.forEach((ink, n) => (pixels[8 * Math.floor(n / PAD.grid / 4) + Math.floor((n % PAD.grid) / 4)] += ink));
  return pixels;
}

/** Ink the cells of the grid whose middle lies under the pen. */
function stamp(inked, x, y) {
  for (let row = Math.max(0, Math.floor(y - PAD.pen)); row <= Math.min(PAD.grid - 1, y + PAD.pen); row++) {
    for (let column = Math.max(0, Math.floor(x - PAD.pen)); column <= Math.min(PAD.grid - 1, x + PAD.pen); column++) {
      if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= PAD.pen) inked[row * PAD.grid + column] = 1;
    }
  }
}

/** Probabilities from logits. */
function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / total);
}

/** Mean probabilities over networks drawn with all their noise: one image in `samples` rows, each with noise of its own. */
function sampledShares(net, x, samples, seed) {
  const rows = new Float64Array(samples * 64);
  for (let n = 0; n < samples; n++) rows.set(x, n * 64);
  const { logits } = forward(net, rows, samples, seed, 0);
  const mean = new Array(10).fill(0);
  for (let n = 0; n < samples; n++) softmax(logits.subarray(10 * n, 10 * n + 10)).forEach((p, c) => (mean[c] += p / samples));
  return mean;
}

function startPad(data) {
  const state = { strokes: [], pixels: new Uint8Array(64), pen: null, shown: -1 };
  const best = (shares) => shares.indexOf(Math.max(...shares));

  /** The strokes on the pad, and beside it the pixels that the networks read. */
  function drawPad() {
    const [small, side] = sharp(element("seen"));
    small.clearRect(0, 0, side, side);
    const grey = Array.from(state.pixels, (value) => value / 16);
    drawSquares(small, grey, 8, 0, 0, side, colour("ink"));
    const [context, width] = sharp(element("digit"));
    context.clearRect(0, 0, width, width);
    if (state.shown >= 0) drawSquares(context, grey, 8, 0, 0, width, colour("faint"));
    [context.strokeStyle, context.fillStyle, context.lineWidth] = [colour("ink"), colour("glow"), width / 12];
    [context.lineCap, context.lineJoin] = ["round", "round"];
    for (const stroke of state.strokes) {
      context.beginPath();
      stroke.forEach(([x, y], n) => context[n ? "lineTo" : "moveTo"](x * width, y * width));
      if (stroke.length === 1) context.lineTo(stroke[0][0] * width, stroke[0][1] * width);
      context.stroke();
    }
    if (!state.pen) return;
    [context.lineWidth, context.strokeStyle] = [3, colour("glow")];
    context.beginPath();
    context.arc(state.pen.x * width, state.pen.y * width, 7, 0, 2 * Math.PI);
    context[state.pen.down ? "fill" : "stroke"]();
  }

  /** What the three networks say; called as well when epoch or threshold have changed. */
  function judge() {
    drawPad();
    const { net, masks, sizeMasks } = play.empties.state;
    const x = Float64Array.from(state.pixels, (value) => value / 16);
    const series = [
      { name: "pruned by log α", shares: softmax(predict(net, masks, x, 1)), ink: "plus" },
      { name: "cut by size", shares: softmax(predict(net, sizeMasks, x, 1)), ink: "minus" },
      { name: "mean of 50 noisy samples", shares: sampledShares(net, x, PAD.samples, 1), ink: "glow" },
    ];
    drawBars(element("opinions"), series);
    const blank = !state.pixels.some((pixel) => pixel);
    const words = series.map(({ name, shares }) => `${name}: ${best(shares)} (${percent(shares[best(shares)], 0)})`);
    const truth = state.shown >= 0 ? ` It is ${data.testLabels[state.shown]}.` : "";
    element("opinion").textContent = blank ? "Nothing is drawn yet." : unbroken(`${words.join("; ")}.${truth}`);
    element("opinions").setAttribute("aria-label", element("opinion").textContent);
    state.series = series;
  }

  function changed() {
    [state.shown, state.pixels] = [-1, pixelsOf(state.strokes)];
    judge();
  }

  function clear() {
    [state.strokes, state.pen] = [[], null];
    changed();
  }

  function next() {
    state.shown = (state.shown + 1) % data.testLabels.length;
    [state.strokes, state.pen] = [[], null];
    state.pixels = data.xTest.slice(64 * state.shown, 64 * state.shown + 64);
    judge();
  }

  const draw = oncePerFrame(changed);
  draggable(element("digit"), (px, py, event) => {
    const width = element("digit").clientWidth;
    if (event.type === "pointerdown") [state.strokes, state.pen] = [state.shown >= 0 ? [] : state.strokes, null];
    if (event.type === "pointerdown") state.strokes.push([]);
    state.strokes[state.strokes.length - 1].push([px / width, py / width]);
    draw();
  });
  const penAt = () => (state.pen ??= { x: 0.5, y: 0.25, down: false });
  steerable(
    element("digit"),
    (dx, dy) => {
      const pen = penAt();
      [pen.x, pen.y] = [pen.x + dx * PAD.keyStep, pen.y - dy * PAD.keyStep].map((at) => Math.min(1, Math.max(0, at)));
      if (pen.down) state.strokes[state.strokes.length - 1].push([pen.x, pen.y]);
      changed();
    },
    {
      " ": () => {
        const pen = penAt();
        pen.down = !pen.down;
        if (pen.down) state.strokes.push([[pen.x, pen.y]]);
        changed();
      },
      Delete: clear,
      Backspace: clear,
    },
  );
  element("clear").addEventListener("click", clear);
  element("show").addEventListener("click", next);
  play.pad = { state, judge, next };
  next();
}
