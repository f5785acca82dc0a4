/** How often self-influence has which size. */
import { useMemo } from "../vendor/hooks.js";
import { count, counted, figure } from "../format.js";
import { html } from "../html.js";
import { logTicks } from "../scales.js";
import { axis, bars, Plot } from "./plot.js";

/**
 * @param {{histogram: {edges: number[], counts: number[], zeros: number}, onRange: ((least: number, most: number) => void)|null}} props
 *   OnRange: somebody drew over a range of sizes; null where it could not be listed.
 */
export function SelfInfluence({ histogram, onRange }) {
  const { edges, counts, zeros } = histogram;
  const { data, options } = useMemo(() => drawn(histogram), [histogram]);
  if (!counts.length) return html`<p>No training example has any self-influence: all ${count(zeros)} are 0.</p>`;
  const label = `Histogram of self-influence, from ${figure(edges[0])} to ${figure(edges[edges.length - 1])} on a logarithmic axis; most examples lie near ${figure(middle(histogram))}.`;
  return html`
    <${Plot} label=${label} data=${data} options=${options} onSelect=${onRange && ((low, high) => onRange(10 ** low, 10 ** high))} />
    <p class="quiet small">To the right stand examples whose own answer depends on having been trained on them: rare, hard or wrongly labelled ones.${onRange && " Draw over a range to list it below."}${zeros > 0 && ` Not drawn: ${counted(zeros, "example")} with none at all.`}</p>
    <details class="small"><summary>The figures</summary><div class="scroll" tabindex="0" role="region" aria-label="Histogram"><table><thead><tr><th scope="col">from</th><th scope="col">to</th><th scope="col">examples</th></tr></thead>
      <tbody>${counts.map((number, bin) => html`<tr key=${bin} class="numeric"><td>${figure(edges[bin])}</td><td>${figure(edges[bin + 1])}</td><td>${count(number)}</td></tr>`)}</tbody></table></div></details>`;
}

/** The size that half of the examples do not reach, to the bin. */
function middle({ edges, counts }) {
  const half = counts.reduce((sum, each) => sum + each, 0) / 2;
  let seen = 0;
  return edges[counts.findIndex((each) => (seen += each) >= half)];
}

function drawn({ edges, counts }) {
  const places = edges.map(Math.log10);
  const [low, high] = [places[0], places[places.length - 1]];
  // A single size makes bins without width.
  const range = high > low ? [low, high] : [low - 0.5, high + 0.5];
  const options = (colours) => ({
    scales: { x: { time: false, range }, y: { range: (_, __, most) => [0, most * 1.05 || 1] } },
    axes: [
      axis(colours, "self-influence (logarithmic scale)", { splits: () => logTicks(...range), values: (_, ticks) => ticks.map((tick) => figure(10 ** tick)) }),
      axis(colours, "examples", { size: 52, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) }),
    ],
    series: [{}, { paths: bars({ size: [1, Infinity], align: 1, gap: 1 }), fill: colours.for, width: 0, points: { show: false } }],
  });
  return { data: [places.slice(0, -1), counts], options };
}
