# Each command is one script, which can be called by itself.
.PHONY: demo test check bench testbed

demo:    ; @scripts/demo.sh
test:    ; @scripts/test.sh
check:   ; @scripts/check.sh
bench:   ; @scripts/bench.sh
testbed: ; @scripts/testbed.sh up
