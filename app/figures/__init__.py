"""Every chart: a pure function from results to a plotly figure and the sentence that says what it shows."""
