"""The explorer: a page that asks the public HTTP API as every other client does.

``static`` holds it as browsers load it: ES modules without a build step, third-party ones in ``vendor`` (see
``scripts/vendor``). The gateway serves ``index.html`` at ``/`` and all else below ``/explorer/``.
"""
