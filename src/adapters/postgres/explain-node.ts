/** Pages of 8 kB that a node and those below it touched. */
export interface PlanBuffers {
  /** Found in the server's memory. */
  readonly hit: number
  /** Asked of the system, from its memory or from disk. */
  readonly read: number
  /** Changed that weren't before. */
  readonly dirtied: number
  /** Written out by this statement. */
  readonly written: number
  /** Read from temporary files. */
  readonly tempRead: number
  /** Written to temporary files: what didn't fit `work_mem`. */
  readonly tempWritten: number
}

/** How a node sorted. */
export interface PlanSort {
  /** The keys. */
  readonly keys: readonly string[]
  /** How, as the server calls it: `quicksort`, `top-N heapsort`, `external merge`; undefined unless it ran. */
  readonly method: string | undefined
  /** How much room it took, in bytes, by the largest of its processes; undefined unless it ran. */
  readonly bytes: number | undefined
  /** Whether that was on disk. */
  readonly onDisk: boolean
}

/** The conditions of a node, as the server writes them; undefined where it has none of the kind. */
export interface PlanConditions {
  /** What every row that was read is tested by. */
  readonly filter?: string
  /** What the index is searched by. */
  readonly index?: string
  /** What is tested again on the rows of a lossy bitmap. */
  readonly recheck?: string
  /** What a hash join joins by. */
  readonly hash?: string
  /** What a merge join joins by. */
  readonly merge?: string
  /** What a join tests each pair by. */
  readonly join?: string
}

/** One node of a plan. What is `undefined` wasn't measured: the statement was not run, or the node wasn't. */
export interface PlanNode {
  /** Its number: the first is 0, and a node comes before those below it. */
  readonly id: number
  /** What it does: `Seq Scan`, `Hash Join`, `Sort`. */
  readonly type: string
  /** It and what it works on, to be read by people: `Seq Scan on public.orders o`. */
  readonly label: string
  /** Its part of a join, or what else it is to its parent: `Outer`, `Inner`, `InitPlan`, `SubPlan`, `Member`. */
  readonly relationship: string | undefined
  /** The kind of join: `Inner`, `Left`, `Semi`, `Anti` and so on. */
  readonly joinType: string | undefined
  /** What it writes: `Insert`, `Update`, `Delete`, `Merge`. */
  readonly operation: string | undefined
  /** The table. */
  readonly relation: string | undefined
  /** The table's schema. */
  readonly schema: string | undefined
  /** What the table is called in the conditions. */
  readonly alias: string | undefined
  /** The index. */
  readonly index: string | undefined
  /** The common table expression that it reads. */
  readonly cte: string | undefined
  /** What it is the plan of, where it is a subplan: `CTE recent`, `InitPlan 1`. */
  readonly subplan: string | undefined
  /** What it tests. */
  readonly conditions: PlanConditions
  /** How it sorts. */
  readonly sort: PlanSort | undefined
  /** The planner's cost of it and what is below, for one loop, in units of a page read in order. */
  readonly totalCost: number
  /** The part of the whole plan's cost that is its own. All of them add up to that of the plan. */
  readonly ownCost: number
  /** The rows that the planner expected of one loop, in one process. */
  readonly plannedRows: number
  /** The rows of one loop, in one process, on average. */
  readonly actualRows: number | undefined
  /** All rows: of all loops in all processes. The server tells an average of loops, so it may be off by the rounding. */
  readonly rows: number | undefined
  /** How often it ran, in all processes; 0 when it never did. */
  readonly loops: number | undefined
  /** Whether the statement ran and this node didn't. */
  readonly neverExecuted: boolean
  /** How often the estimate was off: 10 where there were ten times as many rows, or as few. At least 1. */
  readonly misestimate: number | undefined
  /**
   * Whether something above it may have had enough before it was done (`LIMIT`, `EXISTS`), so that fewer rows than planned are no
   * misestimate.
   */
  readonly mayStopEarly: boolean
  /** How long it and those below it took, in milliseconds of all loops; where it ran in several processes, of one of them on average. */
  readonly totalMs: number | undefined
  /** The part of it that is its own. All of them add up to the time of the topmost node. */
  readonly ownMs: number | undefined
  /** The rows that a filter threw away, of all loops. */
  readonly rowsRemovedByFilter: number | undefined
  /** The rows that a recheck of a lossy bitmap threw away, of all loops. */
  readonly rowsRemovedByRecheck: number | undefined
  /** What it and those below it touched. */
  readonly buffers: PlanBuffers | undefined
  /** What it wrote to temporary files because it didn't fit `work_mem`, in bytes. 0 where all fitted. */
  readonly spilledBytes: number | undefined
  /** How many processes it was planned to get beside the first; 0 without any. Only a Gather has them. */
  readonly workersPlanned: number
  /** How many it got. */
  readonly workersLaunched: number | undefined
  /** What it takes its rows from. */
  readonly children: readonly PlanNode[]
}
