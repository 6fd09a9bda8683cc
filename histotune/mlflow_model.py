"""An export as an MLflow model: MLflow copies this file beside the export and runs it, so that nothing is unpickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from histotune.case_files import of_frame
from histotune.predict import Export, load


class ExportModel(PythonModel):  # type: ignore[misc]  # MLflow is not typed here
    """Predicts as the export folder that was logged under the artifact name `export` does."""

    export: Export

    def load_context(self, context: Any) -> None:
        """Open the export; the model in it is read from safetensors."""
        self.export = load(context.artifacts["export"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Map cases to the table that `Export.predict` returns.

        Args:
            model_input: images uint8 [n, H, W, 3], of an export that reads images only; of one that reads tables a
                DataFrame with a row per case, columns called `MODALITY.COLUMN`, and `case_id` where ids are known. A
                modality of which there is no column is absent, and so is one whose cells are all empty.
        """
        given: Any = model_input  # or a DataFrame: MLflow warns of a type hint that says both
        if not isinstance(given, pd.DataFrame):
            return self.export.predict(given)
        ids, columns = of_frame(given, self.export.reads)
        table = self.export.predict(columns)
        return table.assign(id=[ids[row] for row in table["id"]])


set_model(ExportModel())
