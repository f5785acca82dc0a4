/** Of a long list only what is in sight is in the document. */
import { useLayoutEffect, useRef, useState } from "./vendor/hooks.js";

const OVERSCAN = 8;

/**
 * @param {number} count Rows of the list, all of one height: the custom property `--row` of the scrolled element, in rem.
 * @returns {{scroller: {current: HTMLElement|null}, first: number, last: number, rowHeight: number,
 *   reveal: (row: number) => void}} The rows first..last - 1 are to be shown; reveal scrolls to one.
 */
export function useVisible(count) {
  const scroller = useRef(null);
  const [sight, setSight] = useState({ first: 0, last: 2 * OVERSCAN, rowHeight: 48 });
  useLayoutEffect(() => {
    const element = scroller.current;
    let frame = 0;
    const look = () => {
      frame = 0;
      setSight((was) => changed(was, inSight(element)));
    };
    const follow = () => (frame ||= requestAnimationFrame(look));
    const resizing = new ResizeObserver(follow);
    resizing.observe(element);
    element.addEventListener("scroll", follow, { passive: true });
    return () => {
      cancelAnimationFrame(frame);
      resizing.disconnect();
      element.removeEventListener("scroll", follow);
    };
  }, []);
  const { first, rowHeight } = sight;
  return { scroller, rowHeight, first: Math.min(first, count), last: Math.min(sight.last, count), reveal: (row) => reveal(scroller.current, row * rowHeight, rowHeight) };
}

/** Steps of several rows: few renders while it scrolls. */
function inSight(element) {
  const rowHeight = parseFloat(getComputedStyle(element).getPropertyValue("--row")) * parseFloat(getComputedStyle(document.documentElement).fontSize);
  const step = OVERSCAN / 2;
  const first = Math.floor(element.scrollTop / rowHeight / step) * step - OVERSCAN;
  const shown = Math.ceil(element.clientHeight / rowHeight / step) * step + step + 2 * OVERSCAN;
  return { first: Math.max(0, first), last: Math.max(0, first) + shown, rowHeight };
}

const changed = (was, now) => (was.first === now.first && was.last === now.last && was.rowHeight === now.rowHeight ? was : now);

function reveal(element, top, height) {
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top + height > element.scrollTop + element.clientHeight) element.scrollTop = top + height - element.clientHeight;
}
