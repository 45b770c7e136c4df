/* One weight: what the data want of it, what it costs, and where it comes to rest. */

const AT_THRESHOLD = Math.exp(-THRESHOLD); // s = theta^2 / sigma^2 where log alpha is 3

/** The estimate |z|, in standard errors, for which the best weight has this s; it grows with s. */
function neededZ(s, beta) {
  return (1 + s) * Math.sqrt(beta * slopeOf(s));
}

/** The s of the best weight; 0 if nothing is worth having. */
function bestS(z, beta) {
  if (z * z <= beta) return 0;
  let [low, high] = [-40, 20]; // of log s
  for (let n = 0; n < 60; n++) {
    const middle = (low + high) / 2;
    if (neededZ(Math.exp(middle), beta) < Math.abs(z)) low = middle;
    else high = middle;
  }
  return Math.exp((low + high) / 2);
}

/** What a weight costs more, in nats, than having none: half the expected squared miss, plus beta KL. */
function costOf({ theta, logSigma2 }, z, beta) {
  const sigma2 = Math.exp(logSigma2);
  return ((theta - z) ** 2 + sigma2 - z * z) / 2 + beta * klOf((theta * theta) / sigma2);
}

/** The pulls on theta and log sigma^2, minus the derivatives of the cost: those of the data, and those of the price. */
function pullsOn({ theta, logSigma2 }, z, beta) {
  const sigma2 = Math.exp(logSigma2);
  const s = (theta * theta) / sigma2;
  const v = beta * slopeOf(s);
  return { data: [z - theta, -sigma2 / 2], price: [(-v * theta) / sigma2, (s * v) / 2] };
}

/** A small step downhill, each coordinate scaled by its own steepness so that none runs away. */
function rolled({ theta, logSigma2 }, z, beta, pace) {
  const sigma2 = Math.exp(logSigma2);
  const s = (theta * theta) / sigma2;
  const v = beta * slopeOf(s);
  const rest = z / (1 + v / sigma2); // where theta would rest if nothing else moved
  const turn = (s * v - sigma2) / (s * v + sigma2);
  return { theta: theta + pace * (rest - theta), logSigma2: Math.min(4, Math.max(-8, logSigma2 + pace * turn)) };
}

function startWeight() {
  const [PLANE, HEIGHT, SHADES] = [{ theta: 5, low: -8, high: 4 }, 220, 72];
  const ball = { theta: 2, logSigma2: 1 };
  let frame = 0;
  let ground = null; // the landscape under the ball, for one z and beta
  const logAlpha = () => ball.logSigma2 - Math.log(ball.theta * ball.theta);
  const draw = oncePerFrame(drawNow);
  const z = slider("z", (value) => signed(value), changed);
  const beta = slider("beta", (value) => value.toFixed(2), changed);
  const alpha = slider("alpha", (value) => signed(value), (value) => {
    cancelAnimationFrame(frame);
    ball.theta ||= 0.01;
    ball.logSigma2 = Math.min(PLANE.high, Math.max(PLANE.low, value + Math.log(ball.theta * ball.theta)));
    // where the noise is at its end, the mean gives way
    ball.theta = Math.sign(ball.theta) * Math.exp((ball.logSigma2 - value) / 2);
    draw();
  });

  function changed() {
    ground = null;
    roll();
  }

  /** Let the ball roll until it rests; without motion, put it there at once. */
  function roll() {
    cancelAnimationFrame(frame);
    const step = (pace) => {
      const next = rolled(ball, z.value, beta.value, pace);
      const far = Math.abs(next.theta - ball.theta) + Math.abs(next.logSigma2 - ball.logSigma2);
      Object.assign(ball, next);
      return far > 1e-5;
    };
    const move = () => {
      let going = true;
      for (let n = 0; n < (still.matches ? 20000 : 2) && going; n++) going = step(0.04);
      draw();
      if (going && !still.matches) frame = requestAnimationFrame(move);
    };
    move();
  }

  /** The landscape as a small picture: the deeper, the brighter. */
  function landscape() {
    const picture = document.createElement("canvas");
    [picture.width, picture.height] = [SHADES, SHADES];
    const context = picture.getContext("2d");
    const deepest = bestCost(bestS(z.value, beta.value));
    context.fillStyle = colour("glow");
    for (let row = 0; row < SHADES; row++) {
      for (let column = 0; column < SHADES; column++) {
        const theta = PLANE.theta * (((2 * column + 1) / SHADES) - 1);
        const logSigma2 = PLANE.high - ((row + 0.5) / SHADES) * (PLANE.high - PLANE.low);
        const above = costOf({ theta, logSigma2 }, z.value, beta.value) - deepest;
        context.globalAlpha = 0.75 * Math.exp(-Math.floor(above * 4) / 5); // steps of a quarter of a nat
        context.fillRect(column, row, 1, 1);
      }
    }
    return picture;
  }

  /** Cost of the best weight with this s. */
  function bestCost(s) {
    return beta.value * klOf(s) - (z.value ** 2 / 2) * (s / (1 + s));
  }

  function drawPlane() {
    const box = chart(
      element("plane"),
      300,
      { from: -PLANE.theta, to: PLANE.theta, ticks: range(-4, 4, 2), label: "θ" },
      { from: PLANE.low, to: PLANE.high, ticks: range(-8, 4, 4), label: "log σ²" },
    );
    const { context, left, right, top, bottom } = box;
    ground ??= landscape();
    context.drawImage(ground, left, top, right - left, bottom - top);
    for (const sign of [-1, 1]) {
      const edge = range(0.01, PLANE.theta, 0.01).map((theta) => [sign * theta, THRESHOLD + 2 * Math.log(theta)]);
      box.line(edge, "ink", 1.5, [5, 4]);
    }
    context.fillStyle = colour("ink");
    context.textAlign = "center";
    context.fillText("log α > 3", box.across(0), top + 16);
    const pulls = pullsOn(ball, z.value, beta.value);
    for (const [name, ink] of [["data", "minus"], ["price", "plus"]]) {
      const [dx, dy] = [pulls[name][0] * 30, -pulls[name][1] * 30];
      const long = Math.hypot(dx, dy);
      const size = (22 * Math.asinh(long / 10)) / (long || 1); // long arrows are shortened
      const [x, y] = [box.across(ball.theta), box.up(ball.logSigma2)];
      arrow(context, x, y, x + dx * size, y + dy * size, colour(ink));
    }
    box.dot(ball.theta, ball.logSigma2, "ink");
    play.weight.box = box;
  }

  function arrow(context, x0, y0, x1, y1, ink) {
    const [turn, long] = [Math.atan2(y1 - y0, x1 - x0), Math.hypot(x1 - x0, y1 - y0)];
    if (long < 3) return;
    [context.strokeStyle, context.lineWidth] = [ink, 3];
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    for (const side of [-2.6, 2.6]) {
      context.moveTo(x1, y1);
      context.lineTo(x1 + 8 * Math.cos(turn + side), y1 + 8 * Math.sin(turn + side));
    }
    context.stroke();
  }

  function drawDensity() {
    const bell = (middle, std) => range(-6, 6, 0.02).map((w) => [w, Math.exp(-(((w - middle) / std) ** 2) / 2)]);
    const ticks = range(-4, 4, 2);
    const x = { from: -6, to: 6, ticks, label: "weight" };
    const box = chart(element("density"), HEIGHT, x, { from: 0, to: 1.05, ticks: [0], label: "density, peaks made equal" });
    const own = bell(ball.theta, Math.exp(ball.logSigma2 / 2));
    own.push([ball.theta, 1]); // a narrow peak may lie between two points
    box.line(own.sort((a, b) => a[0] - b[0]), "ink", 3);
    box.line(bell(z.value, 1), "minus", 2, [6, 4]);
  }

  function drawPrice() {
    const box = chart(
      element("price"),
      HEIGHT,
      { from: -8, to: 8, ticks: range(-8, 8, 4), label: "log α" },
      { from: 0, to: 5, ticks: range(0, 5, 1), label: "KL (nats)" },
    );
    box.upright(THRESHOLD, "ink");
    box.line(range(-8, 8, 0.1).map((value) => [value, klOf(Math.exp(-value))]), "plus");
    box.dot(logAlpha(), klOf(Math.exp(-logAlpha())), "ink");
  }

  function drawObjective() {
    const curve = range(-8, 8, 0.1).map((value) => [value, bestCost(Math.exp(-value))]);
    const least = Math.min(-0.5, ...curve.map((point) => point[1]));
    const step = least < -4 ? 2 : least < -1.5 ? 1 : 0.5;
    const [from, to] = [Math.floor(least / step) * step, 4 * step];
    const y = { from, to, ticks: range(from, to, step), label: "objective (nats); 0: no weight" };
    const box = chart(element("objective"), HEIGHT, { from: -8, to: 8, ticks: range(-8, 8, 4), label: "log α" }, y);
    box.upright(THRESHOLD, "ink");
    box.line(curve, "minus");
    box.dot(logAlpha(), costOf(ball, z.value, beta.value), "ink");
  }

  function drawNow() {
    alpha.input.value = Math.min(8, Math.max(-8, logAlpha()));
    element("alpha-now").textContent = Number.isFinite(logAlpha()) ? signed(logAlpha()) : "∞";
    const pulls = pullsOn(ball, z.value, beta.value);
    ["theta", "sigma"].forEach((name, n) => {
      element(`data-${name}`).textContent = signed(pulls.data[n]);
      element(`price-${name}`).textContent = signed(pulls.price[n]);
      element(`both-${name}`).textContent = signed(pulls.data[n] + pulls.price[n]);
    });
    const bar = neededZ(AT_THRESHOLD, beta.value);
    const [dies, s] = [Math.abs(z.value) < bar, bestS(z.value, beta.value)];
    element("rule").className = dies ? "rule lit" : "rule";
    const limit = neededZ(AT_THRESHOLD, 1).toFixed(2);
    const ends = s ? `log α = ${signed(-Math.log(s))}` : "log α growing without end";
    const words =
      `A weight dies where |z| < ${limit} √β. Here |z| = ${Math.abs(z.value).toFixed(2)} and the bar is ${bar.toFixed(2)}: ` +
      `it ${dies ? "dies" : "lives"}, with ${ends}.`;
    if (element("rule").textContent !== words) element("rule").textContent = words; // it is read aloud when it changes
    const place = `θ = ${signed(ball.theta)}, log σ² = ${signed(ball.logSigma2)}`;
    element("place").textContent = place;
    element("plane").setAttribute("aria-label", `The weight at ${place}, log alpha ${signed(logAlpha())}`);
    drawPlane();
    drawDensity();
    drawPrice();
    drawObjective();
  }

  const put = (theta, logSigma2) => {
    cancelAnimationFrame(frame);
    ball.theta = Math.min(PLANE.theta, Math.max(-PLANE.theta, theta));
    ball.logSigma2 = Math.min(PLANE.high, Math.max(PLANE.low, logSigma2));
    draw();
  };
  draggable(element("plane"), (x, y) => put(...play.weight.box.valueAt(x, y)), roll);
  steerable(element("plane"), (dx, dy) => put(ball.theta + 0.1 * dx, ball.logSigma2 + 0.2 * dy), { Enter: roll });
  element("roll").addEventListener("click", roll);
  play.weight = { ball, draw: () => { ground = null; draw(); } };
  drawNow();
}
