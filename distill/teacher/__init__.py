"""The teacher: loaded frozen, its features banked and audited, a probe of what it has to teach.

Owns: TeacherSignals, banks, PEFT folders. Does not own: what a student makes of them (methods).
"""
