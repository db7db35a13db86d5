"""Options of a network that the user wrote."""

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from mariana_asr.nnet.options.network import NetworkOptions

_CLASS_PATH = r"^[^\W\d]\w*(\.[^\W\d]\w*)+$"


class CustomOptions(NetworkOptions):
    """A network of your own: a class in a module that Python can import.

    ``model: {class: my_package.MyNetwork}`` is enough. docs/networks.md says what the class has
    to have.
    """

    # The key `class` is no name that Python allows; what is written has it too.
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    type: Literal["custom"] = "custom"
    """Kind of network."""
    class_path: str = Field(alias="class", pattern=_CLASS_PATH)
    """Module and class, as ``my_package.my_module.MyNetwork``; the module is installed, on
    ``PYTHONPATH``, or in the folder in which the command is started."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further keyword arguments of the class, beside ``frame_dim`` and ``num_outputs``."""
