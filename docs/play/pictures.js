/* Charts on canvases, and how pointers and keys move things on them. */

const FONT = "12px system-ui, sans-serif";

/**
 * Axes of a chart of this height, in the canvas's full width. `x` and `y` are {from, to, ticks, label, show}: `show`
 * turns a tick into words. Returns what one needs to draw on it.
 */
function chart(canvas, height, x, y) {
  const [context, width] = sharp(canvas, height);
  const [left, right, top, bottom] = [50, width - 10, 24, height - 36];
  const across = (value) => left + ((value - x.from) / (x.to - x.from)) * (right - left);
  const up = (value) => bottom - ((value - y.from) / (y.to - y.from)) * (bottom - top);
  context.clearRect(0, 0, width, height);
  [context.font, context.lineWidth, context.strokeStyle, context.fillStyle] = [FONT, 1, colour("line"), colour("faint")];
  context.textAlign = "right";
  for (const tick of y.ticks) {
    context.beginPath();
    context.moveTo(left, up(tick));
    context.lineTo(right, up(tick));
    context.stroke();
    context.fillText(y.show ? y.show(tick) : String(tick).replace("-", "−"), left - 6, up(tick) + 4);
  }
  context.textAlign = "center";
  for (const tick of x.ticks) {
    context.beginPath();
    context.moveTo(across(tick), bottom);
    context.lineTo(across(tick), bottom + 4);
    context.stroke();
    context.fillText(x.show ? x.show(tick) : String(tick).replace("-", "−"), across(tick), bottom + 16);
  }
  context.textAlign = "left";
  context.fillText(y.label, 4, 13);
  context.textAlign = "right";
  context.fillText(x.label, right, height - 4);
  context.textAlign = "left";
  const box = { context, width, height, left, right, top, bottom, across, up };
  box.valueAt = (px, py) => [
    x.from + ((px - left) / (right - left)) * (x.to - x.from),
    y.from + ((bottom - py) / (bottom - top)) * (y.to - y.from),
  ];
  /** A curve through points [x, y], inside the frame. */
  box.line = (points, ink, thickness = 2, dashes = []) => {
    context.save();
    context.beginPath();
    context.rect(left, top - 3, right - left, bottom - top + 6);
    context.clip();
    context.beginPath();
    points.forEach((point, n) => context[n ? "lineTo" : "moveTo"](across(point[0]), up(point[1])));
    [context.strokeStyle, context.lineWidth] = [colour(ink), thickness];
    context.setLineDash(dashes);
    context.stroke();
    context.restore();
  };
  box.upright = (value, ink, dashes = [5, 4]) => box.line([[value, y.from], [value, y.to]], ink, 1.5, dashes);
  box.dot = (px, py, ink, radius = 7) => {
    const at = (value, from, to) => Math.min(Math.max(value, Math.min(from, to)), Math.max(from, to));
    context.beginPath();
    context.arc(across(at(px, x.from, x.to)), up(at(py, y.from, y.to)), radius, 0, 2 * Math.PI);
    [context.fillStyle, context.strokeStyle, context.lineWidth] = [colour(ink), colour("paper"), 2];
    context.fill();
    context.stroke();
  };
  return box;
}

/** Numbers from, from + step, ... up to `to`. */
function range(from, to, step) {
  return Array.from({ length: Math.round((to - from) / step) + 1 }, (_, n) => from + n * step);
}

/** A histogram of log alpha with a logarithmic count axis; bars beyond the threshold are grey, if there is one. */
function drawHistogram(canvas, counts, edges, threshold) {
  const most = 10 ** Math.ceil(Math.log10(Math.max(10, ...counts)));
  const height = (count) => Math.log10(Math.max(count, 0.5));
  const ticks = range(0, Math.log10(most), 1);
  const [from, to] = [edges[0], edges[edges.length - 1]];
  const axes = [
    { from, to, ticks: range(from, to, to - from > 40 ? 16 : 4), label: "log α" },
    { from: height(0), to: Math.log10(most), ticks, label: "weights", show: (tick) => thousands(10 ** tick) },
  ];
  const box = chart(canvas, 220, ...axes);
  counts.forEach((count, n) => {
    if (!count) return;
    const middle = (edges[n] + edges[n + 1]) / 2;
    box.context.fillStyle = colour(middle < threshold ? "glow" : "faint");
    const [start, end] = [box.across(edges[n]), box.across(edges[n + 1])];
    const top = box.up(height(count));
    box.context.fillRect(start, top, Math.max(1, end - start - 0.5), box.bottom - top);
  });
  box.upright(threshold, "plus");
  return box;
}

/** Horizontal bars side by side: `series` of {shares, ink} over the same classes 0, 1, ... */
function drawBars(canvas, series) {
  const classes = range(0, 9, 1);
  const box = chart(
    canvas,
    200,
    { from: -0.5, to: 9.5, ticks: classes, label: "digit" },
    { from: 0, to: 1, ticks: [0, 0.5, 1], label: "probability", show: (share) => percent(share, 0) },
  );
  const wide = ((box.right - box.left) / 10) * 0.24;
  series.forEach(({ shares, ink }, k) => {
    box.context.fillStyle = colour(ink);
    classes.forEach((digit) => {
      const start = box.across(digit) + (k - series.length / 2) * wide;
      box.context.fillRect(start, box.up(shares[digit]), wide - 1, box.bottom - box.up(shares[digit]));
    });
  });
}

/** Let a pointer drag on a canvas: `move(x, y, event)` in CSS pixels of the canvas from press to release, then `end`. */
function draggable(canvas, move, end = () => {}) {
  let held = null;
  const tell = (event) => {
    const box = canvas.getBoundingClientRect();
    move(event.clientX - box.left, event.clientY - box.top, event);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (held !== null || event.button > 0) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    held = event.pointerId;
    tell(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId === held) tell(event);
  });
  const release = (event) => {
    if (event.pointerId !== held) return;
    held = null;
    end();
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
}

/** Let arrow keys act on a canvas: `move(dx, dy)`, up being 1; `others` maps further keys to functions. */
function steerable(canvas, move, others = {}) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key in moves) move(...moves[event.key]);
    else if (event.key in others) others[event.key]();
    else return;
    event.preventDefault();
  });
}

/** A function that runs at most once in a frame, however often it is called. */
function oncePerFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

/** Write what a slider is at, and tell `changed`; returns a function that gives its value. */
function slider(name, show, changed) {
  const input = element(name);
  const write = () => (element(`${name}-now`).textContent = show(Number(input.value)));
  input.addEventListener("input", () => {
    write();
    changed(Number(input.value));
  });
  write();
  return { input, write, get value() { return Number(input.value); } };
}

/** A sentence whose numbers stay beside their percent signs. */
const unbroken = (text) => text.replace(/(\d) %/g, "$1\u00a0%");

const signed = (number, digits = 2) => number.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
