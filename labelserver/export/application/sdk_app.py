"""The application as operators of MONAI Deploy's SDK: ``python app_sdk.py -i IN -o OUT [-m MODELS]``.

Becomes ``app_sdk.py`` of an application that was exported with ``--sdk``. It reads, infers and writes by the same code
as ``__main__.py``; the SDK runs the graph. An input that is refused ends the graph with an error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent
if str(HOME) not in sys.path:
    sys.path.insert(0, str(HOME))

from monai.deploy.conditions import CountCondition  # noqa: E402
from monai.deploy.core import Application, Operator, OperatorSpec  # noqa: E402

from labelserver.export.application.runtime.about import FILE, About  # noqa: E402
from labelserver.export.application.runtime.predicting import load  # noqa: E402
from labelserver.export.application.runtime.running import answer  # noqa: E402
from labelserver.export.application.runtime.studies import Found, find  # noqa: E402


class FindOperator(Operator):
    """Finds and places the volumes of the input folder."""

    def __init__(self, fragment: Any, *args: Any, about: About, source: Path, **kwargs: Any) -> None:
        self.about = about
        self.source = source
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("found")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit(find(self.source, self.about.rules), "found")


class SegmentOperator(Operator):
    """Segments what was found and writes it."""

    def __init__(self, fragment: Any, *args: Any, about: About, models: Path, target: Path, **kwargs: Any) -> None:
        self.about = about
        self.models = models
        self.target = target
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("found")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        found: Found = op_input.receive("found")
        model = load(self.models / self.about.model_folder / "model.ts", HOME, self.about.device, self.about.threads)
        answer(self.about, model, found, self.target)


class DeployApplication(Application):
    """Find, then segment."""

    def compose(self) -> None:
        context = Application.init_app_context(self.argv)
        about = About.read(HOME / FILE).configured(HOME / "app.yaml")
        given = Path(context.model_path or "")
        models = given if (given / about.model_folder).is_dir() else HOME / "models"
        source, target = Path(context.input_path), Path(context.output_path)
        find_ = FindOperator(self, CountCondition(self, 1), about=about, source=source, name="find")
        segment = SegmentOperator(self, about=about, models=models, target=target, name="segment")
        self.add_flow(find_, segment, {("found", "found")})


if __name__ == "__main__":
    DeployApplication().run()
