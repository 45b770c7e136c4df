/* Six histograms of log alpha without a label: the reader says what is wrong. */

const DIAGNOSES = {
  healthy: {
    name: "Healthy",
    sign: "A small living heap left of the line, and a broad dead one right of it that has had time to spread.",
    remedy: "Nothing to do.",
  },
  unfinished: {
    name: "Unfinished",
    sign: "The living heap is still precise, and the dead crowd just beyond the line: they have only begun to drift.",
    remedy: "Train on, until the learning rate has come down to 0.",
  },
  over: {
    name: "Over-pruned: the KL weighs 10 times too much",
    sign: "Few weights are left of the line, and too few: see the error.",
    remedy: "Lower the final KL weight to 1; if that is still too sparse, warm up more slowly.",
  },
  heavy: {
    name: "KL not divided by N",
    sign: "Every weight is far beyond the line. The price was charged for each image instead of once for all of them.",
    remedy: "Divide the KL by the number of training images where the loss is a mean over images.",
  },
  light: {
    name: "KL divided by N twice",
    sign: "Most weights sit left of the line, and the highest bar is the first. Precision cost next to nothing.",
    remedy: "Divide by N once. Compare the KL with the loss that you print: it should be a visible part of it.",
  },
  dead: {
    name: "Dead inputs",
    sign: "A heap stands apart at the far right: weights that the data never touch. Their means have gone to 0 on their own.",
    remedy:
      "Leave out inputs that never vary, or do not count their weights as pruned: they make sparsity look better than it " +
      "is. (The small heap there in other cases has the same cause: three of the 64 pixels are blank in every " +
      "image.)",
  },
};

function startClinic(data) {
  const state = { at: 0, answers: new Array(data.clinic.length).fill(null) };

  function draw() {
    const found = data.clinic[state.at];
    const answer = state.answers[state.at];
    drawHistogram(element("patient"), found.counts, data.edges, THRESHOLD);
    const left = found.counts.reduce((sum, count, n) => sum + (data.edges[n] < THRESHOLD ? count : 0), 0);
    element("patient").setAttribute("aria-label", `Histogram of log alpha: ${left} of 7,400 weights left of the line at 3`);
    element("case").textContent = `Case ${state.at + 1} of ${data.clinic.length}`;
    for (const name of Object.keys(DIAGNOSES)) {
      const button = element(`say-${name}`);
      button.disabled = answer !== null;
      button.className = answer === null ? "" : name === found.name ? "right" : name === answer ? "wrong" : "";
    }
    const right = state.answers.filter((said, n) => said === data.clinic[n].name).length;
    const answered = state.answers.filter((said) => said !== null).length;
    element("clinic-score").textContent = answered ? `${right} of ${answered} right` : "";
    element("clinic-words").textContent = answer === null ? "What do you see?" : explanation(found, answer);
  }

  function explanation(found, answer) {
    const { name, sign, remedy } = DIAGNOSES[found.name];
    return unbroken(
      `${answer === found.name ? "Right" : "No. The answer"}: ${name}. ${sign} ${thousands(found.kept)} of 7,400 weights are left after ` +
      `${found.epochs} epochs, and the error is ${percent(found.error, 1)} on 360 test images. ${remedy}`,
    );
  }

  function say(name) {
    if (state.answers[state.at] !== null) return;
    state.answers[state.at] = name;
    draw();
  }

  for (const [name, diagnosis] of Object.entries(DIAGNOSES)) {
    const button = document.createElement("button");
    [button.id, button.type, button.textContent] = [`say-${name}`, "button", diagnosis.name];
    button.addEventListener("click", () => say(name));
    element("diagnoses").append(button);
  }
  const turn = (by) => () => {
    state.at = (state.at + by + data.clinic.length) % data.clinic.length;
    draw();
  };
  element("clinic-next").addEventListener("click", turn(1));
  element("clinic-back").addEventListener("click", turn(-1));
  play.clinic = { state, draw, say };
  draw();
}
