"""Views on engines, and what is called on them: functions, native functions, executors."""
