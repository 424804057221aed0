# make -j2 over a dozen small generated units.
UNITS := 1 2 3 4 5 6 7 8 9 10 11 12
OBJECTS := $(UNITS:%=unit_%.o)

total: $(OBJECTS) main.o
	$(CC) -o $@ $^

unit_%.c:
	printf '#include <string.h>\n#include <stdlib.h>\nlong unit_%s(long n) { char *p = calloc(1, n); memset(p, %s, n); long s = 0; for (long i = 0; i < n; i++) s += p[i]; free(p); return s; }\n' $* $* >$@

main.c:
	{ printf '#include <stdio.h>\n'; \
	for unit in $(UNITS); do printf 'long unit_%s(long);\n' $$unit; done; \
	printf 'int main(void) { long s = 0;\n'; \
	for unit in $(UNITS); do printf 's += unit_%s(%s00000);\n' $$unit $$unit; done; \
	printf 'printf("%%ld\\n", s); return 0; }\n'; } >$@

%.o: %.c
	$(CC) -O2 -c -o $@ $<
