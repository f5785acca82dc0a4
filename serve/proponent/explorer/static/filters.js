/** Which training examples the view Data shows, as it stands in the address. Pure. */

/**
 * @typedef {object} Filters
 * @property {boolean} all Whether those are shown too on whose label the model agrees.
 * @property {number[]} labels Classes of their labels; empty means all.
 * @property {number[]} predicted Classes that the model predicts for them; empty means all.
 * @property {number|null} least Smallest self-influence.
 * @property {number|null} most Largest self-influence.
 * @property {Order} order
 */
/** @typedef {"self-influence-descending"|"self-influence-ascending"|"example-id"|"class"} Order */

/** @type {Order[]} */
export const ORDERS = ["self-influence-descending", "self-influence-ascending", "example-id", "class"];

/** @param {URLSearchParams} params @returns {Filters} What cannot be read counts as left out. */
export function readFilters(params) {
  const order = params.get("order");
  return {
    all: params.get("show") === "all",
    labels: wholes(params.getAll("label")),
    predicted: wholes(params.getAll("predicted")),
    least: number(params.get("least")),
    most: number(params.get("most")),
    order: ORDERS.find((each) => each === order) ?? ORDERS[0],
  };
}

/** @param {Filters} filters @param {string} view @returns {Record<string, unknown>} Parameters of a ListExamples call. */
export function listQuery({ all, labels, predicted, least, most, order }, view) {
  return {
    class_ids: labels,
    predicted_class_ids: predicted,
    disagreeing: all ? null : true,
    min_self_influence: least,
    max_self_influence: most,
    order_by: order,
    view,
  };
}

/** @param {Filters} filters @returns {boolean} Whether anything but the first choice narrows the list. */
export const isNarrowed = ({ labels, predicted, least, most }) => labels.length + predicted.length > 0 || least !== null || most !== null;

const wholes = (texts) => texts.filter((text) => /^\d{1,9}$/.test(text)).map(Number);

function number(text) {
  const value = text ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null;
}
