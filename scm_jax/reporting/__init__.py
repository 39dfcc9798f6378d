"""Tables, charts and pages made of evaluation reports."""
