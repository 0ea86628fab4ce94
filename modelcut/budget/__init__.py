"""Searching a step's strength by trying: `modelcut sensitivity`, and budgets in recipes.

`bench` measures a model with deferred edits on rows that are held in memory, `profile` tries each
layer alone, `budget` joins the layers' settings to the strongest whole that holds.
"""
