// Goroutines that allocate, collections, memory given back to the system, and a child process.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
)

func work(seed int) int {
	kept := map[int][]byte{}
	total := 0
	for step := 0; step < 2000; step++ {
		block := make([]byte, 1000+977*((seed+step)%31))
		block[step%1000] = byte(seed)
		kept[step%300] = block
		total += len(block) + int(block[step%1000])
	}
	return total + len(kept)
}

func main() {
	if len(os.Args) > 1 {
		fmt.Println("child", work(3))
		os.Exit(4)
	}
	runtime.GOMAXPROCS(4)
	for round := 1; round <= 3; round++ {
		results := make([]int, 16)
		var group sync.WaitGroup
		for n := range results {
			group.Add(1)
			go func(n int) {
				defer group.Done()
				results[n] = work(n * round)
			}(n)
		}
		group.Wait()
		total := 0
		for _, result := range results {
			total += result
		}
		large := make([]int64, 4<<20)
		for n := 0; n < len(large); n += 512 {
			large[n] = int64(n)
		}
		sum := int64(0)
		for _, value := range large {
			sum += value
		}
		large = nil
		runtime.GC()
		debug.FreeOSMemory()
		fmt.Println("round", round, total, sum)
	}
	output, err := exec.Command(os.Args[0], "child").Output()
	fmt.Print(string(output))
	fmt.Println(err)
	os.Exit(6)
}
