/** What is said of labels that the model disagrees with. Pure. */
import { count, counted } from "./format.js";

/** @param {any} summary SummarizeExamplesResponse: what the model makes of the labels that it was trained on. */
export function suspectSentence({ classes, total, label_issues: issues }) {
  const disagreeing = classes.reduce((sum, each) => sum + each.disagreeing_count, 0);
  if (!disagreeing) return `The model agrees with the labels of all ${count(total)} training examples.`;
  const said = `Of ${counted(total, "training example")} the model disagrees with the label of ${count(disagreeing)}, although it was trained on them.`;
  if (!issues) return `${said} None of these leans on itself unusually much.`;
  return `${said} ${issues === disagreeing ? "All of these" : `${count(issues)} of these`} also lean on themselves more than nine in ten others: suspects of a wrong label.`;
}
