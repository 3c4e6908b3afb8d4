"""Operations on a whole log and its read models: audit, compare, move, reindex, verify."""
