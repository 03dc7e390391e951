"""Epsilon from releases and draws: events, accountants, planning and reports."""
