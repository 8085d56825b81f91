"""The parts of a night: what is to be made, what came of it, its report and its timetable. The door is `nightly`."""
