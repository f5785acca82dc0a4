/** What audits measured, drawn; and for what they did not, the command that measures it. */
import { useMemo } from "../vendor/hooks.js";
import { count, counted, figure, percent } from "../format.js";
import { html } from "../html.js";
import { logTicks } from "../scales.js";
import { correlation as rounded } from "../trust.js";
import { axis, linear, Plot, points } from "./plot.js";

/** @param {{model: any}} props GetModelResponse, whose audit holds the points. */
export function AuditPlots({ model }) {
  const { lds, leave_one_out: removal, label_noise: noise, tuning } = model.audit;
  const command = (flags) => `proponent audit --model ${model.name} ${flags}`;
  return html`<div class="pair">
    <${Check} title="Against retrained models" data=${lds?.per_query && lds} draw=${Datamodel} command=${command("--lds 32")}>Trains the model anew on random halves of the training set, and compares what happens with what the scores predict.<//>
    <${Check} title="One example left out" data=${removal?.points && removal} draw=${LeaveOneOut} command=${command("--leave-one-out 10")}>Trains the model without single examples, and compares each real change of loss with the predicted one. For models whose training is convex.<//>
    <${Check} title="Planted label errors" data=${noise?.recovery && noise} draw=${Recovery} command=${command("--label-noise 0.1")}>Flips some labels, trains on them, and sees how soon self-influence finds them.<//>
    <${Check} title="Choice of damping" data=${tuning?.trials && tuning} draw=${Sweep} command="proponent rebuild explain.yaml --damping auto">Scores several dampings against retrained models. For deep networks; exact curvature needs none.<//>
  </div>`;
}

function Check({ title, data, draw, command, children }) {
  return html`<section class="panel check" aria-label=${title}><h3>${title}</h3>
    ${data ? html`<${draw} data=${data} />` : html`<div class="not-measured"><p><strong>Not measured for this bundle.</strong> ${children}</p><p><code>${command}</code></p></div>`}
  </section>`;
}

/** The score of each query, and the mean with its interval. */
function Datamodel({ data: { per_query: scores, mean, interval_95: interval, subsets, queries } }) {
  const [low, high] = interval;
  const { data, options } = useMemo(() => {
    const places = scores.map((_, place) => (100 * (place + 0.5)) / scores.length);
    const level = (value) => places.map(() => value);
    const drawn = (colours) => ({
      scales: { x: { time: false, range: [0, 100] }, y: { range: [Math.floor(5 * Math.min(low, scores[0])) / 5, 1] } },
      axes: [axis(colours, "held-out inputs, worst first (%)"), axis(colours, "agreement (1: perfect)", { size: 44 })],
      series: [{}, UNDRAWN, UNDRAWN, { stroke: colours.ink, width: 1.5, points: { show: false } }, points(colours.for)],
      bands: [{ series: [2, 1], fill: colours.wash }],
    });
    return { data: [places, level(low), level(high), level(mean), scores], options: drawn };
  }, [scores]);
  const said = `Predicted and real changes agree to ${rounded(mean)} of 1 on average (95 % interval ${rounded(low)} to ${rounded(high)}), over ${counted(subsets, "retrained model")} and ${counted(queries, "held-out input")}.`;
  return html`<p>${said}</p><${Plot} label=${said} data=${data} options=${options} /><p class="quiet small">A point is the rank correlation for one held-out input; the line is their mean, the band its interval.</p>`;
}

/** Real changes of loss on predicted ones; on the line they are the same. */
function LeaveOneOut({ data: { points: pairs, correlation, slope, removals, queries } }) {
  const { data, options } = useMemo(() => {
    const order = pairs.predicted.map((_, place) => place).sort((a, b) => pairs.predicted[a] - pairs.predicted[b]);
    const predicted = order.map((place) => pairs.predicted[place]);
    const real = order.map((place) => pairs.real[place]);
    const drawn = (colours) => ({
      scales: { x: { time: false, range: padded } },
      axes: [axis(colours, "predicted change of loss", { values: short }), axis(colours, "real change of loss", { size: 62, values: short })],
      series: [{}, { stroke: colours.quiet, width: 1, dash: [4, 4], paths: linear(), points: { show: false } }, points(colours.for, 5)],
    });
    return { data: [predicted, predicted, real], options: drawn };
  }, [pairs]);
  const said = `Without single examples the loss changed as predicted, with correlation ${rounded(correlation)} and slope ${figure(slope, 3)}: ${counted(removals, "removal")}, ${counted(queries, "held-out input")}.`;
  return html`<p>${said}</p><${Plot} label=${said} data=${data} options=${options} /><p class="quiet small">On the dashed line a real change is the predicted one. A slope above 1 means that real changes are larger.</p>`;
}

/** How many planted errors are found when so many examples have been looked at. */
function Recovery({ data: { recovery, flipped, auc } }) {
  const { data, options } = useMemo(() => {
    const shares = (values) => values.map((value) => 100 * value);
    const inspected = shares(recovery.inspected);
    const drawn = (colours) => ({
      scales: { x: { time: false, range: [0, 100] }, y: { range: [0, 100] } },
      axes: [axis(colours, "looked at, by self-influence (%)"), axis(colours, "label errors found (%)", { size: 44 })],
      series: [{}, { stroke: colours.quiet, width: 1, dash: [4, 4], points: { show: false } }, { stroke: colours.for, width: 2, points: { show: false } }],
    });
    return { data: [inspected, inspected, shares(recovery.found)], options: drawn };
  }, [recovery]);
  const half = recovery.inspected[recovery.found.findIndex((share) => share >= 0.9)];
  const said = `Of ${counted(flipped, "flipped label")} nine in ten are found by looking at ${percent(half ?? 1, 0)} of the training set (area under the curve ${figure(auc, 3)}).`;
  return html`<p>${said}</p><${Plot} label=${said} data=${data} options=${options} /><p class="quiet small">The dashed line is what looking at examples at random would find.</p>`;
}

/** The best score of each damping, one line for each second damping. */
function Sweep({ data: { trials, reason, subsets, queries } }) {
  const { data, options } = useMemo(() => {
    const dampings = [...new Set(trials.map((each) => each.damping))].sort((a, b) => a - b);
    const seconds = [...new Set(trials.map((each) => each.second_damping))].sort((a, b) => a - b);
    const best = (damping, second) => Math.max(...trials.filter((each) => each.damping === damping && each.second_damping === second).map((each) => each.lds));
    const places = dampings.map(Math.log10);
    const drawn = (colours) => ({
      scales: { x: { time: false, range: padded } },
      axes: [axis(colours, "damping (logarithmic scale)", { splits: (_, __, low, high) => logTicks(low, high), values: (_, ticks) => ticks.map((tick) => figure(10 ** tick)) }), axis(colours, "agreement (1: perfect)", { size: 52 })],
      series: [{}, ...seconds.map((second, place) => ({ label: figure(second), stroke: colours.for, width: 1.5, dash: DASHES[place % DASHES.length], points: { show: true, size: 5, fill: colours.for } }))],
    });
    return { data: [places, ...seconds.map((second) => dampings.map((damping) => best(damping, second)))], options: drawn, seconds };
  }, [trials]);
  const said = `${reason}; measured on ${counted(subsets, "retrained model")} and ${counted(queries, "held-out input")}.`;
  return html`<p>${said}</p><${Plot} label=${`Agreement by damping. ${said}`} data=${data} options=${options} /><p class="quiet small">One line for each second damping, from ${count(new Set(trials.map((each) => each.second_damping)).size)} that were tried, at its best K: the finer the dashes, the larger.</p>`;
}

const UNDRAWN = { width: 0, points: { show: false } };
const DASHES = [[], [8, 4], [4, 4], [1, 3]];

const padded = (_, low, high) => {
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
};

const short = (_, ticks) => ticks.map((tick) => figure(tick));
