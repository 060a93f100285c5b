"""A featurizer with the methods of matminer's, which it works together with but does not need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crystalpredict.errors import StructureError, UsageError, suppress_warnings
from crystalpredict.integrations.embedding import embeddings, label_of

CITATIONS = [
    "@inproceedings{taniai2024crystalformer, title={Crystalformer: Infinitely Connected Attention for Periodic "
    "Structure Encoding}, author={Taniai, Tatsunori and Igarashi, Ryo and Suzuki, Yuta and Chiba, Naoya and Saito, "
    "Kotaro and Ushiku, Yoshitaka and Ono, Kanta}, booktitle={International Conference on Learning Representations}, "
    "year={2024}}",
    "@article{jain2013materials, title={Commentary: The Materials Project: A materials genome approach to "
    "accelerating materials innovation}, author={Jain, Anubhav and others}, journal={APL Materials}, year={2013}, "
    "doi={10.1063/1.4812323}}",
]


class CrystalFeaturizer:
    """The network's features of a structure, as a featurizer of matminer.

    It goes into `matminer.featurizers.base.MultipleFeaturizer` beside others. The model is loaded by the first call,
    and is not part of a pickle.
    """

    def __init__(self, model: str | None = None, device: str = "auto") -> None:
        """Choose the model.

        Args:
            model: Name of a bundled or installed model, or a checkpoint folder; None: the default.
            device: `cpu`, `cuda`, `cuda:N` or `auto`.
        """
        self.model, self.device = model, device

    def fit(self, X: Any, y: Any = None, **options: Any) -> CrystalFeaturizer:
        """Return the featurizer: nothing is fitted."""
        del X, y, options
        return self

    def transform(self, X: Any) -> list[list[float]]:
        """Return the features of each structure of a list, not a number where there are none."""
        return self.featurize_many(X, ignore_errors=True)  # type: ignore[return-value]

    def featurize(self, structure: Any) -> list[float]:
        """Return the features of a structure, (D,).

        Args:
            structure: A pymatgen structure, ASE Atoms, or the path or text of a file with one structure.

        Raises:
            StructureError: It cannot be read or computed.
        """
        ((*features,),) = self.featurize_many([structure])
        return features  # type: ignore[return-value]

    def featurize_wrapper(
        self, x: Sequence[Any], return_errors: bool = False, ignore_errors: bool = False
    ) -> list[float | str]:
        """Return the features of the only item of `x`, as matminer calls it; arguments as for `featurize_many`."""
        return self.featurize_many(list(x), ignore_errors=ignore_errors, return_errors=return_errors)[0]

    def featurize_many(
        self, entries: Any, ignore_errors: bool = False, return_errors: bool = False, pbar: Any = False
    ) -> list[list[float | str]]:
        """Return the features of structures, a list of D numbers each, in order.

        Args:
            entries: List, array or Series of structures, or of lists of one.
            ignore_errors: Return not-a-number for a structure that cannot be computed, rather than raise its error.
            return_errors: Add the error as the last item, not a number without one; needs `ignore_errors`.
            pbar: Ignored: there is no progress bar.

        Raises:
            StructureError: A structure cannot be read or computed.
        """
        del pbar
        if return_errors and not ignore_errors:
            raise UsageError("return_errors needs ignore_errors=True")
        items = [item[0] if type(item).__name__ in ("list", "tuple", "ndarray") else item for item in _values(entries)]
        missing = [float("nan")] * label_of(self.model)[1]
        rows: list[list[float | str]] = []
        for number, row in enumerate(embeddings(items, self.model, self.device)):
            if row.error and not ignore_errors:
                raise StructureError(f"structure {number}: {row.error}")
            features = missing if row.features is None else row.features.tolist()
            rows.append([*features, *([row.error or float("nan")] if return_errors else [])])
        return rows

    def featurize_dataframe(
        self,
        df: Any,
        col_id: str | Sequence[str],
        ignore_errors: bool = False,
        return_errors: bool = False,
        inplace: bool = False,
        **options: Any,
    ) -> Any:
        """Return a DataFrame with the features as columns, beside those that it has.

        Args:
            df: DataFrame.
            col_id: Name of the column of structures, or a list of one name.
            ignore_errors: As for `featurize_many`.
            return_errors: The same; the column is `CrystalFeaturizer Exceptions`.
            inplace: Whether to change the DataFrame, and return None.
            options: `multiindex`, which must be False, and `pbar`, which is ignored.

        Raises:
            UsageError: The columns are there already, or `multiindex` is asked for.
        """
        import pandas

        names = [col_id] if isinstance(col_id, str) else list(col_id)
        if len(names) != 1 or options.get("multiindex"):
            raise UsageError("one column of structures is featurized, to plain columns: give one col_id, no multiindex")
        labels = self._generate_column_labels(False, return_errors)
        if there := [label for label in labels if label in df.columns]:
            raise UsageError(f"the DataFrame has a column {there[0]!r} already: rename or drop it")
        rows = self.featurize_many(df[names[0]], ignore_errors, return_errors)
        found = pandas.DataFrame(rows, index=df.index, columns=labels)
        if inplace:
            with suppress_warnings():  # of many columns, added one by one
                df[labels] = found
            return None
        return pandas.concat([df, found], axis=1)

    def fit_featurize_dataframe(
        self, df: Any, col_id: str | Sequence[str], fit_args: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the result of `featurize_dataframe`: nothing is fitted."""
        del fit_args
        return self.featurize_dataframe(df, col_id, *args, **kwargs)

    def feature_labels(self) -> list[str]:
        """Return the names of the features."""
        name, count = label_of(self.model)
        return [f"{name}_{number}" for number in range(count)]

    def citations(self) -> list[str]:
        """Return BibTeX of what the features build on."""
        return list(CITATIONS)

    def implementors(self) -> list[str]:
        """Return who wrote the featurizer."""
        return ["The crystalpredict developers"]

    def set_n_jobs(self, n_jobs: int) -> None:
        """Do nothing: structures are computed in one process, on all cores."""

    def set_chunksize(self, chunksize: int) -> None:
        """Do nothing, for the same reason."""

    def _generate_column_labels(self, multiindex: bool, return_errors: bool) -> list[str]:
        """Return the names of the columns, as matminer asks for them."""
        del multiindex
        return self.feature_labels() + ["CrystalFeaturizer Exceptions"] * return_errors


def _values(entries: Any) -> list[Any]:
    """Return the items of a list, an array, a Series, or a DataFrame of one column."""
    if hasattr(entries, "sites") or hasattr(entries, "get_cell") or isinstance(entries, str | dict):
        raise UsageError("a list of structures is needed: put the structure into a list, or call featurize")
    return list(entries.to_numpy()) if hasattr(entries, "to_numpy") else list(entries)
