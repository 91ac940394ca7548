class Progress: pass
def is_interactive(): return False
