"""Results of a trace as data: what each verb computes, without text."""
