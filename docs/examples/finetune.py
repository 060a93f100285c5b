"""Fine-tuning on a property of one's own: a model of the refractive index from 41 crystals."""

from __future__ import annotations

import pandas
from own_features import TABLE, structure  # of the example beside this one

from crystalpredict import FinetuneOptions, finetune


def main() -> None:
    """Train, print the errors on crystals held out, and predict a crystal that is in no table."""
    known = pandas.read_csv(TABLE, dtype=str)
    labelled = pandas.DataFrame(
        {
            "id": known["formula"],
            "structure": [structure(row) for row in known.to_dict("records")],
            "measured_index": known["refractive_index"].astype(float),
        }
    )
    options = FinetuneOptions(target="measured_index", epochs=25, test=0.2)
    run = finetune(labelled, options, output="refractive")
    for row in run.to_frame().to_dict("records"):
        print(f"{row['part']}: mean absolute error {row['mae']:.2f} on {row['crystals']} crystals")
    crystal = structure({"formula": "ZnTe", "structure": "zinc blende", "a": "6.104"})
    (prediction,) = run.model.predict([crystal])
    print(f"{prediction.formula}: {prediction['measured_index']:.2f}")


if __name__ == "__main__":
    main()
