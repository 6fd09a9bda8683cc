"""An export as an MLflow model: MLflow copies this file beside the export and runs it, so that nothing is unpickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from histotune.predict import Export, load


class ExportModel(PythonModel):  # type: ignore[misc]  # MLflow is not typed here
    """Predicts as the export folder that was logged under the artifact name `export` does."""

    export: Export

    def load_context(self, context: Any) -> None:
        """Open the export; the model in it is read from safetensors."""
        self.export = load(context.artifacts["export"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Map images uint8 [n, H, W, 3] to the table that `Export.predict` returns."""
        return self.export.predict(model_input)


set_model(ExportModel())
