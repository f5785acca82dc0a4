/** Parts of the page that are loaded when they are first shown. */
import { ApiError } from "../api.js";
import { html } from "../html.js";
import { useRequest } from "../request.js";
import { Answer } from "./problem.js";

/**
 * @param {{name: string, from: () => Promise<any>, [prop: string]: any}} props
 *   Name: of the component, which the module that `from` imports exports; what else is given goes to it.
 */
export function Later({ name, from, ...props }) {
  const part = useRequest(`part ${name}`, async () => ({ name, component: (await arrived(from()))[name] }));
  return html`<${Answer} request=${part} what="Opening">
    ${(found) => found.name === name && html`<${found.component} ...${props} />`}
  <//>`;
}

const arrived = (module) =>
  module.catch(() => {
    throw new ApiError("lost", "This part of the page could not be loaded.", { retryAfter: 2 });
  });
