/** Plots by uPlot, in the colours of the page. Each is an image with a sentence for whoever does not see it. */
import { useEffect, useLayoutEffect, useRef, useState } from "../vendor/hooks.js";
import uPlot from "../vendor/uplot.js";
import { html } from "../html.js";

const FONT = "12px system-ui, sans-serif";
const COLOURS = { ink: "--ink", quiet: "--quiet", line: "--line", for: "--for-bar", against: "--against-bar", wash: "--for-wash" };

export const { bars, linear } = uPlot.paths;

/**
 * @param {{label: string, data: number[][], options: (colours: Record<string, string>) => any, height?: number,
 *   onSelect?: (low: number, high: number) => void}} props
 *   Data and options must stay the same objects while nothing changes. OnSelect: a range of x was drawn over.
 */
export function Plot({ label, data, options, height = 220, onSelect }) {
  const host = useRef(null);
  const select = useRef(onSelect);
  select.current = onSelect;
  const theme = useTheme();
  useLayoutEffect(() => {
    const element = host.current;
    const size = () => ({ width: element.clientWidth, height });
    const hooks = onSelect ? { setSelect: [(plot) => selected(plot, select.current)] } : {};
    const plot = new uPlot({ ...size(), ...FRAME, ...options(colours(element)), hooks }, data, element);
    const resizing = new ResizeObserver(() => plot.setSize(size()));
    resizing.observe(element);
    return () => {
      resizing.disconnect();
      plot.destroy();
    };
  }, [theme, data, options]);
  return html`<div class=${onSelect ? "plot selectable" : "plot"} role="img" aria-label=${label} ref=${host} style=${{ height: `${height}px` }}></div>`;
}

const FRAME = { legend: { show: false }, cursor: { x: false, y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } } };

/** @param {Record<string, string>} colours @param {string} label @param {any} [more] */
export function axis(colours, label, more = {}) {
  const { quiet: stroke, line } = colours;
  return { stroke, label, font: FONT, labelFont: FONT, size: 30, labelSize: 20, labelGap: 0, grid: { stroke: line, width: 1 }, ticks: { stroke: line, size: 4 }, ...more };
}

/** @param {string} stroke @param {number} [size] A series of points without lines. */
export const points = (stroke, size = 6) => ({ paths: () => null, points: { show: true, size, stroke, fill: stroke, width: 1 } });

function selected(plot, onSelect) {
  const { left, width } = plot.select;
  if (width < 4) return;
  onSelect(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
  plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
}

/** A canvas knows no custom properties: each colour is read off an element that has it. */
function colours(host) {
  const probe = host.appendChild(document.createElement("span"));
  const found = Object.entries(COLOURS).map(([name, property]) => {
    probe.style.color = `var(${property})`;
    return [name, getComputedStyle(probe).color];
  });
  probe.remove();
  return Object.fromEntries(found);
}

/** @returns {number} Another number whenever the colours change. */
function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const change = () => setTheme((n) => n + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    const chosen = new MutationObserver(change);
    chosen.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    system.addEventListener("change", change);
    return () => {
      chosen.disconnect();
      system.removeEventListener("change", change);
    };
  }, []);
  return theme;
}
