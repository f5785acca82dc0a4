/** What is known of a model and of the bundle that answers for it, in words, and one click deeper the figures. */
import { withheldSentence } from "../disclosure.js";
import { count, counted, figure, percent } from "../format.js";
import { date } from "../later_format.js";
import { html } from "../html.js";
import { nounOf } from "../input.js";
import { dampingSentence, trustSentences } from "../trust.js";
import { auditFacts, Fact } from "./quality.js";

/** @param {{model: any}} props GetModelResponse. */
export function ModelFacts({ model }) {
  const quality = { curvature: model.curvature, kept_energy: model.kept_energy, audit: model.audit };
  const sentences = [...trustSentences(quality), dampingSentence(model), coverSentence(model), withheldSentence(model), disclosureSentence(model)].filter(Boolean);
  return html`
    <ul class="sentences">${sentences.map((each) => html`<li key=${each}>${each}</li>`)}</ul>
    <details><summary>The figures</summary>
      <dl class="facts">
        ${facts(model).map(([name, value, code]) => html`<${Fact} key=${name} name=${name} value=${value} code=${code} />`)}
        ${auditFacts(model.audit).map(([name, value]) => html`<${Fact} key=${name} name=${name} value=${value} />`)}
      </dl>
    </details>`;
}

/** @param {any} model @returns {string} */
export function modelSentence(model) {
  const { name, class_names: classes, train_size: size, train_accuracy: accuracy } = model;
  const right = accuracy > 0 ? ` It gives ${percent(accuracy)} of them the label that they have.` : "";
  return `The model ${name} tells ${counted(classes.length, "class", "classes")} apart (inputs ${inputWords(model)}), and was trained on ${counted(size, "example")}.${right}`;
}

function inputWords({ input_shape: shape, input_signature: signature, ...model }) {
  const noun = nounOf({ ...model, input_signature: signature });
  if (noun === "text") return "are texts";
  return noun === "row" ? `are rows of ${counted(signature.columns.length, "column")}` : `of ${shape.join(" × ")}`;
}

function coverSentence({ uncovered, uncovered_share: uncoveredShare, frozen, frozen_share: frozenShare }) {
  const parts = [];
  if (uncovered.length) parts.push(`${percent(uncoveredShare)} of its trained numbers lie in layers that are not explained (${uncovered.join(", ")}).`);
  if (frozen.length) parts.push(`${percent(frozenShare)} were not trained (frozen), and take no part.`);
  return parts.join(" ") || "Every number that was trained takes part in the explanation.";
}

function disclosureSentence(model) {
  const { allow_examples: examples, allow_thumbnails: thumbnails, allow_samples: samples, samples: number } = model;
  const open = [examples && "look up training examples", thumbnails && `see ${{ picture: "pictures of them", text: "their texts", row: "their rows" }[nounOf(model)]}`, samples && number > 0 && `try ${counted(number, "held-out sample")}`].filter(Boolean);
  if (open.length) return `You may ${listed(open)}.`;
  return withheldSentence(model) ? "" : "The service discloses ids, labels and scores of training examples, and nothing else.";
}

const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`);

function facts(model) {
  return [
    ["Bundle", model.bundle_digest, true],
    ["Weights (SHA-256)", model.weights_sha256, true],
    ["Built", date(model.created)],
    ["Curvature", model.curvature],
    ["Scores", model.teachers ? `of the recipe, distilled from ${counted(model.teachers, "other training")}` : "of this model"],
    ["Damping", `${figure(model.damping)}${model.damping_relative ? " × each layer's mean eigenvalue" : ""}`],
    ["Numbers per example (K)", count(model.embedding_size)],
    ["Kept energy", figure(model.kept_energy, 6)],
    ["Loss explained", model.loss],
    ["Training examples (N)", count(model.train_size)],
    ["Classes", model.class_names.length > 20 ? `${model.class_names.slice(0, 20).join(", ")}, …` : model.class_names.join(", ")],
    nounOf(model) === "row" ? ["Columns", model.input_signature.columns.map(({ name }) => name).join(", ") || "not told"] : nounOf(model) === "text" ? ["Input", "text"] : ["Encoded image", model.image_size.length ? `${model.image_size.join(" × ")} pixels, ${model.image_mode}` : "any size"],
    ["Samples kept", count(model.samples)],
  ];
}
