"""Searching whole recipes: `modelcut search`.

`modelcut.recipe.space` says what may vary, `goal` what is wanted, `sampler` what is tried next,
`trial` what became of it, `workers` where it is done; `search` joins them. What is chosen is chosen
on validation samples; the test data is looked at once, at the end.
"""
