/** Ticks of logarithmic axes, whose positions are logarithms to base 10. Pure. */

const STEPS = [[1], [1, 3], [1, 2, 5]];

/**
 * @param {number} low Logarithm of the smallest value. @param {number} high @param {number} [most]
 * @returns {number[]} Logarithms of round numbers between them: as many as fit, at least those of whole decades.
 */
export function logTicks(low, high, most = 8) {
  const candidates = STEPS.map((steps) => ticksOf(steps, low, high));
  const fitting = candidates.filter((ticks) => ticks.length <= most);
  const chosen = fitting.length ? fitting[fitting.length - 1] : candidates[0];
  const every = Math.ceil(chosen.length / most);
  return chosen.filter((_, place) => place % every === 0);
}

function ticksOf(steps, low, high) {
  const found = [];
  for (let decade = Math.floor(low); decade <= Math.ceil(high); decade += 1) {
    for (const step of steps) {
      const tick = decade + Math.log10(step);
      if (tick >= low - 1e-9 && tick <= high + 1e-9) found.push(tick);
    }
  }
  return found;
}
