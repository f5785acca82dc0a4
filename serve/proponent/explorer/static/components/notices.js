/** What the reader of an answer must know. */
import { count, counted } from "../format.js";
import { html } from "../html.js";

/** @param {{notices: any[], trainSize: number}} props */
export function Notices({ notices, trainSize }) {
  return html`<ul class="notices">${notices.map((each) => html`<li key=${each.code}>${noticeSentence(each, trainSize)}</li>`)}</ul>`;
}

/** @param {{code: string, message: string, count: number}} notice */
function noticeSentence({ code, message, count: number }, trainSize) {
  switch (code) {
    case "CODE_ZERO_INFLUENCE":
      return "No training example has any influence on this prediction: its loss is flat here (with hinge loss: the margin is kept), so that no small change of the model would move it.";
    case "CODE_NO_DIRECTION":
      return "The model is so sure of this input that its gradient vanishes: there is no direction in which training examples could be compared.";
    case "CODE_ROWS_OMITTED":
      return `${counted(number, "training example")} of ${count(trainSize)} pulled the model in no direction at all; the RelatIF lists leave them out.`;
    case "CODE_LAYERS_UNCOVERED":
      return "Part of what was trained in this model takes no part in the explanation.";
    case "CODE_PARAMETERS_FROZEN":
      return `${counted(number, "tensor")} of parameters were not trained (frozen) and take no part.`;
    case "CODE_SCORES_DISTILLED":
      return `The scores speak of this model's recipe: they are distilled from ${counted(number, "other training")} of it.`;
    case "CODE_K_CAPPED":
      return "There are fewer training examples to choose from than were asked for.";
    default:
      return message;
  }
}
