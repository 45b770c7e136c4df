/* Training in the page: micro.js, a few steps between two frames. */

const TRAIN = { epochs: 60, batch: 50, seed: 0, slice: 12, sizes: [64, 100, 10] }; // slice: milliseconds of work in a frame

function startTrain(data) {
  const [x, xTest] = [data.x, data.xTest].map((pixels) => Float64Array.from(pixels, (value) => value / 16));
  const testLabels = Array.from(data.testLabels);
  const trueLabels = Array.from(data.labels);
  const noOrder = shuffled(trueLabels.length, TRAIN.seed, -1 >>> 0);
  const randomLabels = noOrder.map((from) => trueLabels[from]); // the same labels, dealt to other images
  const state = { run: null, course: [], going: false, frame: 0, spent: 0 };
  const beta = slider("train-beta", (value) => value.toFixed(2), () => {});
  const warmUp = slider("train-warm", (value) => `${value} epochs`, () => {});
  const rate = slider("train-rate", (value) => (10 ** value).toFixed(4), () => {});
  const controls = [beta.input, warmUp.input, rate.input, element("train-random")];

  function begin() {
    const options = { beta: beta.value, warmUp: warmUp.value, lr: 10 ** rate.value, ...TRAIN };
    state.labels = element("train-random").checked ? randomLabels : trueLabels;
    state.run = makeTrainer(x, state.labels, TRAIN.sizes, options);
    [state.course, state.loss, state.spent] = [[measure()], null, 0];
  }

  /** The pruned network as it is now: its weights, its errors on test images and on those that it learns. */
  function measure() {
    const { net } = state.run;
    const masks = net.map(kept);
    const count = masks.reduce((sum, mask) => sum + mask.reduce((a, b) => a + b, 0), 0);
    return {
      epoch: state.run.epoch,
      living: count / 7400,
      count,
      test: errorOf(predict(net, masks, xTest, testLabels.length), testLabels),
      train: errorOf(predict(net, masks, x, state.labels.length), state.labels),
    };
  }

  /** One step, and a measurement where an epoch ends. */
  function step() {
    const { epoch } = state.run;
    state.loss = trainStep(state.run);
    if (state.run.epoch > epoch) state.course.push(measure());
    return state.loss;
  }

  const done = () => state.run !== null && state.run.epoch >= TRAIN.epochs;

  function go() {
    const begun = performance.now();
    while (!done() && performance.now() - begun < TRAIN.slice) step();
    state.spent += performance.now() - begun;
    if (done()) state.going = false;
    show();
    if (state.going) state.frame = requestAnimationFrame(go);
  }

  function show() {
    const locked = state.run !== null && !done();
    controls.forEach((control) => (control.disabled = locked));
    element("train-go").textContent = state.going ? "Pause" : locked ? "Go on" : done() ? "Train again" : "Train";
    element("train-again").disabled = state.run === null;
    const last = state.course[state.course.length - 1];
    if (!state.run) element("train-words").textContent = "Nothing is trained yet.";
    else {
      element("train-words").textContent = unbroken(
        `Epoch ${state.run.epoch} of ${TRAIN.epochs}: ${thousands(last.count)} of 7,400 weights live; error ` +
        `${percent(last.test, 1)} on test images, ${percent(last.train, 1)} on those it learns.` +
        (done() ? ` ${(state.spent / 1000).toFixed(1)} seconds of work for ${thousands(state.run.step)} steps.` : ""),
      );
    }
    draw();
  }

  function draw() {
    const box = chart(
      element("course"),
      240,
      { from: 0, to: TRAIN.epochs, ticks: range(0, TRAIN.epochs, 20), label: "epoch" },
      { from: 0, to: 1, ticks: range(0, 1, 0.25), label: "share", show: (share) => percent(share, 0) },
    );
    if (state.run) box.upright(state.run.warmUp, "faint");
    for (const [name, ink, dashes] of [["living", "glow", []], ["test", "plus", []], ["train", "minus", [5, 4]]]) {
      box.line(state.course.map((point) => [point.epoch, point[name]]), ink, 2.5, dashes);
    }
    const last = state.course[state.course.length - 1];
    const words = last ? `${last.count} weights, test error ${percent(last.test, 1)}` : "empty";
    element("course").setAttribute("aria-label", `Living weights and errors over the epochs: ${words}`);
  }

  element("train-go").addEventListener("click", () => {
    cancelAnimationFrame(state.frame);
    if (state.run === null || done()) begin();
    state.going = !state.going;
    if (state.going) state.frame = requestAnimationFrame(go);
    show();
  });
  element("train-again").addEventListener("click", () => {
    cancelAnimationFrame(state.frame);
    [state.run, state.course, state.going] = [null, [], false];
    show();
  });
  play.train = { state, begin, step, draw, show };
  show();
}
