/* The reader draws a curve first; then the truth lies over it. */

const COLUMNS = 33; // places of the curve that is drawn

/** The questions: axes, true curve as [x, y], a curve to start from, and what it shows. */
function questionsOf(data) {
  const { kept, error } = data.course;
  const { shared, local } = data.variance;
  const logAlphas = range(-8, 8, 1);
  const total = data.sizes[0] * data.sizes[1] + data.sizes[1] * data.sizes[2];
  const least = Math.floor(Math.min(...shared, ...local));
  const gap = 10 ** (shared[12] - local[12]);
  const half = kept.findIndex((count) => count < total / 2); // epochs count from 0 here
  const shares = kept.map((count, n) => [n + 1, count / total]);
  const isNear = (count) => Math.abs(count - kept[kept.length - 1]) < 0.01 * total;
  const settled = kept.findIndex((_, n) => kept.slice(n).every(isNear));
  return [
    {
      ask: "What does a weight cost, in nats, at each log α? Noise grows to the right.",
      x: { from: -8, to: 8, ticks: range(-8, 8, 4), label: "log α" },
      y: { from: 0, to: 5, ticks: range(0, 5, 1), label: "KL (nats)" },
      truth: range(-8, 8, 0.1).map((value) => [value, klOf(Math.exp(-value))]),
      shows: "The price falls all the way: a straight line of slope −½ for precise weights, then 0. Noise is free.",
    },
    {
      ask:
        "The dashed curve is the variance of the gradient of θ when a batch of 100 images shares one noise per weight. " +
        "Draw it for local reparametrisation: one noise per image and output.",
      x: { from: -8, to: 8, ticks: range(-8, 8, 4), label: "log α" },
      y: { from: least, to: -2, ticks: range(least, -2, 1), label: "variance", show: (n) => `10${superscript(n)}` },
      given: logAlphas.map((value, n) => [value, shared[n]]),
      truth: logAlphas.map((value, n) => [value, local[n]]),
      shows: `Noise of their own averages out over the images: at log α = 4 the variance is ${gap.toFixed(0)} times smaller.`,
    },
    {
      ask: `The run above: what share of the ${thousands(total)} weights lives after each epoch? The KL weight rises until epoch 20.`,
      x: { from: 0, to: 60, ticks: range(0, 60, 20), label: "epoch" },
      y: { from: 0, to: 1, ticks: range(0, 1, 0.25), label: "living weights", show: (share) => percent(share, 0) },
      truth: shares,
      shows:
        `Most weights die early: half are gone after epoch ${half + 1}, trained with a KL weight of only ${(half / 20).toFixed(2)}. ` +
        `From epoch ${settled + 1} on the share stays within one percentage point of the last, ` +
        `${percent(shares[shares.length - 1][1], 1)}, and the test error ends at ${percent(error[error.length - 1], 1)}.`,
    },
  ];
}

/** A whole number as small digits. */
function superscript(number) {
  return String(number).replace(/-/g, "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
}

/** Height of a curve of points at x, straight between them, flat beyond. */
function heightAt(points, x) {
  const next = points.findIndex((point) => point[0] >= x);
  if (next === -1) return points[points.length - 1][1];
  if (next === 0) return points[0][1];
  const [[x0, y0], [x1, y1]] = [points[next - 1], points[next]];
  return y0 + ((x - x0) / (x1 - x0)) * (y1 - y0);
}

function startPredictions(data) {
  const questions = questionsOf(data);
  const drawn = questions.map(() => new Array(COLUMNS).fill(null));
  const state = { at: 0, drawn, shown: questions.map(() => false), pen: 0, last: null };
  const draw = oncePerFrame(drawNow);
  const question = () => questions[state.at];
  const place = (column) => question().x.from + (column / (COLUMNS - 1)) * (question().x.to - question().x.from);
  const curve = () => state.drawn[state.at].flatMap((height, column) => (height === null ? [] : [[place(column), height]]));
  const inside = (height) => Math.min(question().y.to, Math.max(question().y.from, height));

  /** Mean distance of the two curves where the truth is known, as a share of the axis. */
  function gap() {
    const { x, y, truth } = question();
    const [first, last] = [Math.max(x.from, truth[0][0]), Math.min(x.to, truth[truth.length - 1][0])];
    const places = range(first, last, (last - first) / 200);
    const total = places.reduce((sum, at) => sum + Math.abs(heightAt(curve(), at) - inside(heightAt(truth, at))), 0);
    return total / places.length / (y.to - y.from);
  }

  function drawNow() {
    const { ask, x, y, given, truth, shows } = question();
    const box = (state.box = chart(element("guess"), 280, x, y));
    if (given) box.line(given, "minus", 2, [6, 4]);
    const points = curve();
    box.line(points, "ink", 3);
    const shown = state.shown[state.at];
    if (shown) box.line(truth, "plus", 3);
    else box.dot(place(state.pen), state.drawn[state.at][state.pen] ?? (y.from + y.to) / 2, "glow", 6);
    element("ask").textContent = ask;
    element("question").textContent = `Question ${state.at + 1} of ${questions.length}`;
    const score = shown ? Math.round(100 * (1 - gap())) : null;
    element("answer").textContent = shown
      ? unbroken(`Score ${score} of 100: your curve is off by ${percent(gap(), 0)} of the axis on average. ${shows}`)
      : points.length < 2
        ? "Draw from left to right, then ask for the truth."
        : "";
    element("truth").disabled = shown || points.length < 2;
    element("guess").setAttribute("aria-label", `${ask} ${points.length} of ${COLUMNS} places drawn. ${shown ? shows : ""}`);
  }

  /** Set the heights from the column drawn last to this one. */
  function put(column, height) {
    if (state.shown[state.at]) return;
    const own = state.drawn[state.at];
    const [from, start] = state.last ?? [column, height];
    const steps = Math.max(1, Math.abs(column - from));
    for (let n = 0; n <= steps; n++) {
      own[from + Math.round(((column - from) * n) / steps)] = start + ((height - start) * n) / steps;
    }
    [state.last, state.pen] = [[column, height], column];
    draw();
  }

  function reveal() {
    if (curve().length > 1) state.shown[state.at] = true;
    draw();
  }

  function turn(by) {
    [state.at, state.pen, state.last] = [(state.at + by + questions.length) % questions.length, 0, null];
    draw();
  }

  const guess = element("guess");
  draggable(
    guess,
    (px, py, event) => {
      if (event.type === "pointerdown") state.last = null;
      const { left, right } = state.box;
      const column = Math.min(COLUMNS - 1, Math.max(0, Math.round(((px - left) / (right - left)) * (COLUMNS - 1))));
      put(column, inside(state.box.valueAt(px, py)[1]));
    },
    () => (state.last = null),
  );
  steerable(
    guess,
    (dx, dy) => {
      const { y } = question();
      const own = state.drawn[state.at];
      const height = own[state.pen] ?? (y.from + y.to) / 2;
      state.last = null;
      put(state.pen, inside(height + dy * 0.05 * (y.to - y.from)));
      if (dx) put(Math.min(COLUMNS - 1, Math.max(0, state.pen + dx)), own[state.pen + dx] ?? height);
    },
    { Enter: reveal },
  );
  element("truth").addEventListener("click", reveal);
  element("guess-again").addEventListener("click", () => {
    state.drawn[state.at].fill(null);
    [state.shown[state.at], state.pen, state.last] = [false, 0, null];
    draw();
  });
  element("guess-next").addEventListener("click", () => turn(1));
  play.predictions = { state, questions, put, reveal, turn, gap, draw };
  drawNow();
}
