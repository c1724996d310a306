"""The quality of what is learned from: texts, repeats, labels, and more of both. All optional.

::

    text ──► cleaning ──► near_duplicates ──► augmentation ◄── neighbours
    label, with scores from before it was learned, or of left_out ──► label_noise
    text without a label, with two views' probabilities ──► pseudo_labels
    texts without labels ──► adaptation (of the encoder)
    a batch and its loss ──► adversarial

`learners.curation` and `learners.consolidation` put them to use, one setting each (`[data]`).

One idea a module, each with a small frozen config and no state but what its own `state` gives.
Nothing here knows the loop, strategies, Kafka or settings.
"""
