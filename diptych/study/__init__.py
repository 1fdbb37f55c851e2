"""Studies: many runs, one comparison, one report. A study is a list of `diptych` commands that a person could type as well."""
