"""A server of the model context protocol on standard input and output, by the official SDK (the extra `mcp`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from crystalpredict._version import __version__
from crystalpredict.errors import CrystalPredictError, UsageError, printable
from crystalpredict.integrations import mcp_requests as records
from crystalpredict.integrations.mcp_tools import Tools, call

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

NO_SDK = "a server needs the SDK of the model context protocol, 2 or newer: pip install 'crystalpredict[mcp]'"
MAX_ERROR = 600  # characters of the message of an error
LOG = logging.getLogger(__name__)
INSTRUCTIONS = (
    "Predicts properties of inorganic crystals from their structures with a bundled neural network. Give the text of "
    "a CIF or POSCAR, or a path below the folder of this server. Every value has a unit and, where calibrated, a 90 % "
    "interval: report both. Warnings of a structure are reasons to doubt all of its values: report them too. Values "
    "are those of PBE calculations unless the label of the property says otherwise; gaps of PBE are smaller than "
    "measured ones. Structures that are not relaxed (by substitution, from a generator) need unrelaxed=true. There are "
    "no forces: this is not an interatomic potential."
)


@dataclass(frozen=True)
class ToolSpec:
    """A tool: its name, what it does, and the records of its arguments and results."""

    name: str
    title: str
    description: str
    run: Callable[[Tools, Any], Any]
    arguments: type[Any]
    result: type[Any]


TOOLS = (
    ToolSpec(
        "predict",
        "Predict properties of crystals",
        "Predict band gap (eV), formation energy (eV/atom), energy above the hull (eV/atom), bulk and shear modulus "
        "(GPa) and others (list_properties) of crystals from their structures, each with a 90 % interval, and with "
        f"warnings about crystals unlike the training data. At most {records.MAX_STRUCTURES} structures in a call.",
        Tools.predict,
        records.PredictRequest,
        records.PredictResult,
    ),
    ToolSpec(
        "hull",
        "Phase diagram",
        "Return the phase diagram of a chemical system: known phases of the Materials Project on and near the convex "
        "hull, the given structures by their predicted formation energies (eV/atom, convention of the Materials "
        "Project of 2018), what each decomposes to, and whether a structure is new and stable.",
        Tools.hull,
        records.HullRequest,
        records.HullResult,
    ),
    ToolSpec(
        "relax",
        "Relax crystals",
        "Return crystals as a network predicts that they relax (Å^3, with a 90 % interval of the change of the volume "
        "in percent, strain in percent, and displacement in Å), or relaxed by the interatomic potential of this "
        f"server, with the cells as CIFs. At most {records.MAX_RELAXED} structures in a call.",
        Tools.relax,
        records.RelaxRequest,
        records.RelaxResult,
    ),
    ToolSpec(
        "evaluate",
        "Errors on labelled crystals",
        "Measure the errors of a model on a table of crystals with known values: mean absolute error with its 95 % "
        "interval, in the unit of the property, and how many labels are in the 90 % intervals. At most "
        f"{records.MAX_EVALUATED:,} rows.",
        Tools.evaluate,
        records.EvaluateRequest,
        records.EvaluateResult,
    ),
    ToolSpec(
        "list_models",
        "Models",
        "List the models at hand with the properties that each predicts.",
        Tools.list_models,
        records.NoArguments,
        records.ModelList,
    ),
    ToolSpec(
        "list_properties",
        "Properties",
        "List the properties that a model predicts, or that follow from them, with units and aliases.",
        Tools.list_properties,
        records.PropertiesRequest,
        records.PropertyList,
    ),
)


def refuse_missing_sdk() -> None:
    """Raise UsageError if the SDK is not installed, or too old."""
    try:
        major = int(version("mcp").partition(".")[0])
    except (PackageNotFoundError, ValueError):
        major = 0
    if major < 2:
        raise UsageError(NO_SDK)


def server_of(tools: Tools) -> Server[Any]:
    """Return the server of some tools, for any transport of the SDK.

    Raises:
        UsageError: The SDK is not installed.
    """
    refuse_missing_sdk()
    import anyio
    from mcp.server.lowlevel import Server
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations

    specs = {spec.name: spec for spec in TOOLS}
    one_at_a_time = anyio.CapacityLimiter(1)  # the network uses all cores

    async def list_tools(context: Any, params: Any) -> ListToolsResult:
        del context, params
        hints = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
        return ListToolsResult(
            tools=[
                Tool(
                    name=spec.name, title=spec.title, description=spec.description, annotations=hints,
                    input_schema=records.schema_of(spec.arguments), output_schema=records.schema_of(spec.result),
                )
                for spec in TOOLS
            ]
        )  # fmt: skip

    async def call_tool(context: Any, params: CallToolRequestParams) -> CallToolResult:
        del context
        try:
            if (spec := specs.get(params.name)) is None:
                raise UsageError(f"no tool {params.name[:80]!r}: choose from {', '.join(specs)}")
            work = partial(call, tools, spec.run, spec.arguments, params.arguments or {})
            found = await anyio.to_thread.run_sync(work, limiter=one_at_a_time)
        except CrystalPredictError as error:
            text = printable(str(error))[:MAX_ERROR]
        except Exception as error:
            LOG.exception("the tool %s failed", params.name)
            text = f"unforeseen {type(error).__name__}: please report it; the log of the server has the details"
        else:
            said = json.dumps(found, ensure_ascii=False)
            return CallToolResult(content=[TextContent(text=said)], structured_content=found)
        return CallToolResult(content=[TextContent(text=text)], is_error=True)

    return Server(
        "crystalpredict", version=__version__, title="crystalpredict", instructions=INSTRUCTIONS,
        on_list_tools=list_tools, on_call_tool=call_tool,
    )  # fmt: skip


def serve(tools: Tools) -> None:
    """Serve tools on standard input and output until the input ends; what libraries print goes to stderr.

    Raises:
        UsageError: The SDK is not installed, or there are no streams.
    """
    server = server_of(tools)
    import anyio
    from mcp.server.stdio import stdio_server

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    try:
        anyio.run(run)
    except ExceptionGroup as group:
        found, _ = group.split(OSError)
        if found is None:
            raise
        raise UsageError("stdin or stdout cannot be used: a client of the protocol starts this command") from None
