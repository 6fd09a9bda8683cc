"""An export as an MLflow model: MLflow copies this file beside the export and runs it, so that nothing is unpickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

import histotune


class ExportModel(PythonModel):  # type: ignore[misc]  # MLflow is not typed here
    """Predicts as the export folder that was logged under the artifact name `export` does."""

    def load_context(self, context: Any) -> None:
        """Open the export; the model in it is read from safetensors."""
        self.export = histotune.load(context.artifacts["export"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Map cases to the table that `Export.predict` returns.

        Args:
            model_input: images uint8 [n, H, W, 3], of an export that reads images only; of one that reads tables a
                DataFrame with a row per case, columns called `MODALITY.COLUMN`, and `case_id` where ids are known. A
                modality of which there is no column is absent, and so is one whose cells are all empty.
        """
        given: Any = model_input  # or a DataFrame: MLflow warns of a type hint that says both
        return self.export.predict(given)


set_model(ExportModel())
