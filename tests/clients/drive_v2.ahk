; Starts the v2 client once: settings from setup.txt in the folder given, outcome.txt into it.
#Requires AutoHotkey v2.0
#NoTrayIcon
#SingleInstance Off
#Warn All, StdOut
OnError(Fail)
#Include %A_ScriptDir%\..\..\clients\ahk\SOLUCAO_COM_REDUNDANCIA_v2.ahk

Main(A_Args[1])
ExitApp(0)

Main(folder) {
    global g_LicenseAPI_Servers, g_LicenseAPI_Key, g_LicenseAPI_SharedSecret, g_LicenseAPI_RootKeyX
    global g_LicenseAPI_RootKeyY, g_LicenseAPI_DeviceId, g_LicenseAPI_TimeoutSeconds, g_LicenseAPI_StateFile
    EnvSet("TMP", folder)
    EnvSet("TEMP", folder)
    g_LicenseAPI_Servers := []
    settings := Map()
    Loop Parse, FileRead(folder "\setup.txt", "UTF-8"), "`n" {
        at := InStr(A_LoopField, "=")
        name := SubStr(A_LoopField, 1, at - 1), value := SubStr(A_LoopField, at + 1)
        if name = "server"
            g_LicenseAPI_Servers.Push(value)
        else
            settings[name] := value
    }
    g_LicenseAPI_Key := settings["key"]
    g_LicenseAPI_SharedSecret := settings["secret"]
    g_LicenseAPI_RootKeyX := settings["x"]
    g_LicenseAPI_RootKeyY := settings["y"]
    g_LicenseAPI_DeviceId := settings["device"]
    g_LicenseAPI_TimeoutSeconds := Integer(settings["timeout"])
    g_LicenseAPI_StateFile := settings["state"]

    BusyPc.busyMs := Integer(settings["busy"])
    licenca := BusyPc.Check()
    outcome := licenca.allow "`n" licenca.status "`n" licenca.message "`n"
    for feature in licenca.features
        outcome .= feature "`n"
    if FileExist(folder "\outcome.txt")
        FileDelete(folder "\outcome.txt")
    FileAppend(outcome, folder "\outcome.txt", "UTF-8")
}

; A PC that has other things to do between the question and the wait for its answer.
class BusyPc extends LicenseAPI {
    static busyMs := 0

    static IsAnswered(http, deadline) {
        Sleep(this.busyMs)
        return super.IsAnswered(http, deadline)
    }
}

Fail(problem, *) {
    FileAppend(problem.Message " (" problem.File ":" problem.Line ")`n", "*", "UTF-8-RAW")
    ExitApp(9)
}
